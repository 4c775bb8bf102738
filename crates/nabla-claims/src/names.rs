//! The rows and columns of a table: tasks, variants and metrics. Each is declared once, as a constant, and
//! used as the key of recorded values. A metric in the place of a variant does not compile.
//!
//! ```
//! use nabla_claims::{Metric, Task, Variant};
//!
//! const DIGITS: Task = Task::named("handwritten digits");
//! const OURS: Variant = Variant::method("ours");
//! const ACCURACY: Metric = Metric::higher("test accuracy", "%");
//!
//! // Names that follow from a value:
//! let after = |calls: usize| Task::of(format!("after {calls} calls"));
//! assert_eq!(after(50).name(), "after 50 calls");
//! ```

use std::borrow::Cow;
use std::fmt;

use serde::{Deserialize, Serialize};

/// Which direction of a metric is better.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Direction {
    /// Larger values are better, such as PSNR or accuracy.
    HigherIsBetter,
    /// Smaller values are better, such as an error or a time.
    LowerIsBetter,
    /// Neither direction is better, such as a number of parameters that is only reported.
    Informative,
}

impl Direction {
    /// The arrow that tables show beside a metric's name: `↑`, `↓` or nothing.
    pub fn arrow(self) -> &'static str {
        match self {
            Direction::HigherIsBetter => "↑",
            Direction::LowerIsBetter => "↓",
            Direction::Informative => "",
        }
    }

    /// Whether `a` is strictly better than `b`; never true of an informative metric or of a NaN.
    pub fn is_better(self, a: f64, b: f64) -> bool {
        match self {
            Direction::HigherIsBetter => a > b,
            Direction::LowerIsBetter => a < b,
            Direction::Informative => false,
        }
    }
}

/// A column of the table: a quantity, its unit and its good direction.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Metric {
    name: Cow<'static, str>,
    unit: Cow<'static, str>,
    direction: Direction,
}

impl Metric {
    const fn new(name: &'static str, unit: &'static str, direction: Direction) -> Self {
        Self {
            name: Cow::Borrowed(name),
            unit: Cow::Borrowed(unit),
            direction,
        }
    }

    /// A metric for which higher is better; `unit` is empty for a pure number.
    pub const fn higher(name: &'static str, unit: &'static str) -> Self {
        Self::new(name, unit, Direction::HigherIsBetter)
    }

    /// A metric for which lower is better.
    pub const fn lower(name: &'static str, unit: &'static str) -> Self {
        Self::new(name, unit, Direction::LowerIsBetter)
    }

    /// A metric that is reported but not judged.
    pub const fn informative(name: &'static str, unit: &'static str) -> Self {
        Self::new(name, unit, Direction::Informative)
    }

    /// The usual name of the quantity, such as `WS-PSNR`.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The unit, such as `dB` or `s`; empty for a pure number.
    pub fn unit(&self) -> &str {
        &self.unit
    }

    /// Which direction is better.
    pub fn direction(&self) -> Direction {
        self.direction
    }
}

/// The role of a row of the table.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Role {
    /// The paper's method, whole.
    Method,
    /// The method with a part removed or replaced.
    Ablation,
    /// A baseline with which the method is compared.
    Baseline,
}

impl Role {
    /// The role in one word, as tables and legends show it.
    pub fn word(self) -> &'static str {
        match self {
            Role::Method => "method",
            Role::Ablation => "ablation",
            Role::Baseline => "baseline",
        }
    }
}

/// A row of the table: one way to do the job.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Variant {
    name: Cow<'static, str>,
    role: Role,
}

impl Variant {
    /// The paper's method, whole.
    pub const fn method(name: &'static str) -> Self {
        Self {
            name: Cow::Borrowed(name),
            role: Role::Method,
        }
    }

    /// The method with a part removed or replaced.
    pub const fn ablation(name: &'static str) -> Self {
        Self {
            name: Cow::Borrowed(name),
            role: Role::Ablation,
        }
    }

    /// A baseline with which the method is compared.
    pub const fn baseline(name: &'static str) -> Self {
        Self {
            name: Cow::Borrowed(name),
            role: Role::Baseline,
        }
    }

    /// A variant whose name follows from a value.
    pub fn of(role: Role, name: impl Into<String>) -> Self {
        Self {
            name: Cow::Owned(name.into()),
            role,
        }
    }

    /// The name shown.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Its role.
    pub fn role(&self) -> Role {
        self.role
    }
}

/// A part of an experiment with its own table: a data set, a function, a scale.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Task(Cow<'static, str>);

impl Task {
    /// A task.
    pub const fn named(name: &'static str) -> Self {
        Self(Cow::Borrowed(name))
    }

    /// A task whose name follows from a value.
    pub fn of(name: impl Into<String>) -> Self {
        Self(Cow::Owned(name.into()))
    }

    /// The name shown.
    pub fn name(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for Task {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Display for Variant {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.name)
    }
}

impl fmt::Display for Metric {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.name)
    }
}
