//! Named values.

use std::fmt;

use serde::de::{DeserializeOwned, Error as _, MapAccess, Visitor};
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use serde_json::Value;

use super::RegistryError;

/// Named values, in the order of the configuration or in which they were set.
///
/// ```
/// use nabla_base::registry::Options;
/// use serde::{Deserialize, Serialize};
///
/// #[derive(Debug, Deserialize, PartialEq, Serialize)]
/// struct Momentum {
///     rate: f32,
///     nesterov: bool,
/// }
///
/// let defaults = Options::of(&Momentum { rate: 0.9, nesterov: false })?;
/// assert_eq!(defaults.to_string(), "rate=0.9, nesterov=false");
/// let given = Options::parse(&["nesterov=true"])?;
/// let made: Momentum = defaults.overridden(&given).to_config()?;
/// assert_eq!(made, Momentum { rate: 0.9, nesterov: true });
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Options(Vec<(String, Value)>);

impl Options {
    /// Creates an empty list of options.
    pub fn new() -> Self {
        Self::default()
    }

    /// The fields of a configuration, which may have none.
    ///
    /// # Errors
    /// If the configuration is not a table of values.
    pub fn of<C: Serialize>(config: &C) -> Result<Self, serde_json::Error> {
        // Through text, a 32-bit number keeps its few digits: 0.9 instead of 0.8999999761581421.
        serde_json::from_str(&serde_json::to_string(config)?)
    }

    /// Parses texts `NAME=VALUE`. A value that is valid JSON (a number, `true`, `null`, a list, an object) is read
    /// as JSON, and any other value is a string.
    ///
    /// # Errors
    /// If a text has no `=`, or nothing before it.
    pub fn parse<S: AsRef<str>>(texts: &[S]) -> Result<Self, RegistryError> {
        texts.iter().try_fold(Self::new(), |options, text| {
            match text.as_ref().split_once('=') {
                Some((name, value)) if !name.trim().is_empty() => {
                    let value = value.trim();
                    let value = serde_json::from_str(value).unwrap_or_else(|_| Value::from(value));
                    Ok(options.with(name.trim(), value))
                }
                _ => Err(RegistryError::NotAnOption(text.as_ref().to_owned())),
            }
        })
    }

    /// The configuration with these fields.
    ///
    /// # Errors
    /// If a field is missing or has another type.
    pub fn to_config<C: DeserializeOwned>(&self) -> Result<C, serde_json::Error> {
        serde_json::from_value(Value::Object(self.0.iter().cloned().collect()))
    }

    /// The value with this name.
    pub fn get(&self, name: &str) -> Option<&Value> {
        let found = self.0.iter().find(|(n, _)| n == name);
        found.map(|(_, value)| value)
    }

    /// Replaces a value, or adds it at the end.
    pub fn set(&mut self, name: &str, value: Value) {
        match self.0.iter_mut().find(|(n, _)| n == name) {
            Some((_, old)) => *old = value,
            None => self.0.push((name.to_owned(), value)),
        }
    }

    /// Removes a value and returns it.
    pub fn remove(&mut self, name: &str) -> Option<Value> {
        let place = self.0.iter().position(|(n, _)| n == name)?;
        Some(self.0.remove(place).1)
    }

    /// Adds an option, which replaces one of the same name in its place.
    #[must_use]
    pub fn with(mut self, name: &str, value: impl Into<Value>) -> Self {
        self.set(name, value.into());
        self
    }

    /// Adds all options of `over`, which replace those of the same names in their places.
    #[must_use]
    pub fn overridden(mut self, over: &Self) -> Self {
        for (name, value) in over.iter() {
            self.set(name, value.clone());
        }
        self
    }

    /// Sorts the options by name, as programs list them.
    #[must_use]
    pub fn sorted(mut self) -> Self {
        self.0.sort_by(|(a, _), (b, _)| a.cmp(b));
        self
    }

    /// Whether there are no options.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The names in their order.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.0.iter().map(|(name, _)| name.as_str())
    }

    /// The names and values in their order.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &Value)> {
        self.0.iter().map(|(name, value)| (name.as_str(), value))
    }
}

/// Writes `NAME=VALUE, …`.
impl fmt::Display for Options {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, (name, value)) in self.iter().enumerate() {
            let comma = if index > 0 { ", " } else { "" };
            write!(f, "{comma}{name}={}", shown(value))?;
        }
        Ok(())
    }
}

/// A value as a user writes it.
pub(super) fn shown(value: &Value) -> String {
    match value {
        Value::String(text) => text.clone(),
        other => other.to_string(),
    }
}

impl Serialize for Options {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_map(self.iter())
    }
}

/// Refuses a name that occurs twice.
impl<'de> Deserialize<'de> for Options {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Ordered;
        impl<'de> Visitor<'de> for Ordered {
            type Value = Options;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a table of values")
            }

            fn visit_unit<E: serde::de::Error>(self) -> Result<Options, E> {
                Ok(Options::default())
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Options, A::Error> {
                let mut options = Options::default();
                while let Some((name, value)) = map.next_entry::<String, Value>()? {
                    if options.get(&name).is_some() {
                        return Err(A::Error::custom(format!("duplicate field `{name}`")));
                    }
                    options.0.push((name, value));
                }
                Ok(options)
            }
        }
        deserializer.deserialize_any(Ordered)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, Deserialize, PartialEq, Serialize)]
    struct Config {
        rate: f32,
        decay: f64,
        another: Option<usize>,
    }

    const CONFIG: Config = Config {
        rate: 0.9,
        decay: 1e-8,
        another: None,
    };

    #[test]
    fn a_configuration_keeps_its_order_and_its_digits() {
        let options = Options::of(&CONFIG).unwrap();
        let text = serde_json::to_string(&options).unwrap();
        assert_eq!(text, r#"{"rate":0.9,"decay":1e-8,"another":null}"#);
        assert_eq!(options.to_string(), "rate=0.9, decay=1e-8, another=null");
        let back: Config = options.to_config().unwrap();
        assert_eq!(back, CONFIG);
        let sorted = options.sorted();
        let names: Vec<&str> = sorted.names().collect();
        assert_eq!(names, ["another", "decay", "rate"]);
    }

    #[test]
    fn what_is_no_table_or_has_a_name_twice_is_refused() {
        assert!(Options::of(&3).is_err());
        assert!(Options::of(&()).unwrap().is_empty());
        let twice = serde_json::from_str::<Options>(r#"{"a": 1, "b": 2, "a": 3}"#);
        let told = twice.unwrap_err().to_string();
        assert!(told.contains("duplicate field `a`"), "{told}");
    }

    #[test]
    fn a_value_that_is_set_again_keeps_its_place() {
        let mut options = Options::parse(&["b=1", "a=text", "b=[2]"]).unwrap();
        assert_eq!(options.to_string(), "b=[2], a=text");
        let over = Options::new().with("c", true).with("b", 0.5);
        assert_eq!(
            options.clone().overridden(&over).to_string(),
            "b=0.5, a=text, c=true"
        );
        assert_eq!(options.remove("b"), Some(serde_json::json!([2])));
        assert_eq!(options.get("b"), None);
        assert_eq!(options.remove("b"), None);
    }
}
