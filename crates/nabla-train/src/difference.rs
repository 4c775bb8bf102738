//! In what two descriptions of a training differ, in words.
//!
//! A description is a table of settings. What was computed from the data is in it by its
//! [fingerprint](nabla_grad::fingerprint), which nobody can read: it is told only that it is another one, and only if
//! no setting differs.

use std::fmt;

use serde_json::{Map, Value};

/// The first setting in which two descriptions differ.
///
/// ```
/// use nabla_train::difference::Difference;
/// use serde_json::json;
///
/// let told = |found, expected| Difference::between(&found, &expected).map(|d| d.to_string());
/// assert_eq!(
///     told(json!({ "side": 64, "seed": 0 }), json!({ "side": 32, "seed": 0 })).as_deref(),
///     Some("side was 64 there, but 32 is asked for")
/// );
/// let [a, b] = ["85944171f73967e8", "cbf29ce484222325"].map(|hash| json!({ "examples": hash }));
/// assert_eq!(told(a, b).as_deref(), Some("the examples were others there"));
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Difference {
    setting: String,
    /// There, and as asked for; none of a fingerprint.
    values: Option<[String; 2]>,
}

impl fmt::Display for Difference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let setting = &self.setting;
        match &self.values {
            Some([found, expected]) => {
                write!(
                    f,
                    "{setting} was {found} there, but {expected} is asked for"
                )
            }
            None => write!(f, "the {setting} were others there"),
        }
    }
}

impl Difference {
    /// The first setting in which two descriptions differ; none if they are the same.
    pub fn between(found: &Value, expected: &Value) -> Option<Self> {
        [false, true].into_iter().find_map(|of_data| {
            let mut path = Vec::new();
            let values = differing(found, expected, of_data, &mut path)?;
            // Where a trainer keeps a setting is its own business.
            while path.len() > 1 && ["task", "trainer", "experiment"].contains(&path[0].as_str()) {
                path.remove(0);
            }
            let name = match (path.last(), of_data) {
                (Some(last), true) => last.clone(),
                (Some(_), false) => path.join("."),
                (None, _) => "its description".to_owned(),
            };
            Some(Self {
                setting: name.replace('_', " "),
                values: (!of_data).then_some(values),
            })
        })
    }
}

/// The hash of something that nobody can read.
fn is_fingerprint(value: &Value) -> bool {
    let hex = |text: &str| text.len() == 16 && text.bytes().all(|b| b.is_ascii_hexdigit());
    value.as_str().is_some_and(hex)
}

/// The first values that differ, and, in `path`, where they are.
///
/// - `of_data`: whether to look at fingerprints
fn differing(a: &Value, b: &Value, of_data: bool, path: &mut Vec<String>) -> Option<[String; 2]> {
    let mut inner = |key: String, a: &Value, b: &Value| {
        path.push(key);
        let found = differing(a, b, of_data, path);
        if found.is_none() {
            path.pop();
        }
        found
    };
    match (a, b) {
        _ if a == b => None,
        (Value::Object(a), Value::Object(b)) => {
            let keys = a.keys().chain(b.keys().filter(|key| !a.contains_key(*key)));
            let of =
                |map: &Map<String, Value>, key: &str| map.get(key).cloned().unwrap_or_default();
            // What has another name has other options too.
            let named = keys.clone().filter(|key| *key == "name");
            named
                .chain(keys.clone().filter(|key| *key != "name"))
                .find_map(|key| inner(key.clone(), &of(a, key), &of(b, key)))
        }
        (Value::Array(a), Value::Array(b)) if a.len() == b.len() => {
            let mut pairs = a.iter().zip(b).enumerate();
            pairs.find_map(|(i, (a, b))| inner(i.to_string(), a, b))
        }
        _ if !of_data && is_fingerprint(a) && is_fingerprint(b) => None,
        _ => Some([a, b].map(in_words)),
    }
}

fn in_words(value: &Value) -> String {
    match value {
        Value::Null => "none".to_owned(),
        value if is_fingerprint(value) => "set".to_owned(),
        Value::String(text) => text.clone(),
        Value::Array(values) if values.is_empty() => "none".to_owned(),
        Value::Array(values) => {
            let named = |value: &Value| !value.is_object() || value.get("name").is_some();
            match values.iter().all(named) {
                true => values.iter().map(in_words).collect::<Vec<_>>().join(", "),
                false => format!("{} of them", values.len()),
            }
        }
        Value::Object(map) => map.get("name").map_or("set".to_owned(), in_words),
        other => other.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn what_differs_is_told_in_plain_words() {
        let made = json!({
            "task": { "seed": 0, "source": { "name": "coded", "settings": { "workers": 2 } },
                      "experiment": { "examples": "85944171f73967e8", "side": 64 } },
            "trainer": { "clip_norm": 0.5, "schedule": { "decay": "cosine" }, "widths": [3, 4] },
            "objectives": [{ "name": "erm" }, { "name": "irm" }],
        });
        let differs = |change: &dyn Fn(&mut Value)| {
            let mut asked = made.clone();
            change(&mut asked);
            Difference::between(&made, &asked).unwrap().to_string()
        };
        let asked = |name: &str, found: &str, expected: &str| {
            format!("{name} was {found} there, but {expected} is asked for")
        };
        assert_eq!(
            differs(&|v| v["task"]["seed"] = json!(9)),
            asked("seed", "0", "9")
        );
        let norm = differs(&|v| v["trainer"]["clip_norm"] = json!(1.0));
        assert_eq!(norm, asked("clip norm", "0.5", "1.0"));
        let decay = differs(&|v| v["trainer"]["schedule"]["decay"] = json!("constant"));
        assert_eq!(decay, asked("schedule.decay", "cosine", "constant"));
        let widths = differs(&|v| v["trainer"]["widths"] = json!([3]));
        assert_eq!(widths, asked("widths", "3, 4", "3"));
        assert_eq!(
            differs(&|v| v["task"]["source"] = json!(null)),
            asked("source", "coded", "none")
        );
        let other = json!({ "name": "dp-sgd", "settings": { "batch": 3 } });
        let source = differs(&|v| v["task"]["source"] = other.clone());
        assert_eq!(source, asked("source.name", "coded", "dp-sgd"));
        assert_eq!(
            differs(&|v| v["task"]["new"] = json!(true)),
            asked("new", "none", "true")
        );
        let objectives = differs(&|v| v["objectives"] = json!([{ "name": "fish" }]));
        assert_eq!(objectives, asked("objectives", "erm, irm", "fish"));
        let objective = differs(&|v| v["objectives"][1] = json!({ "name": "fish" }));
        assert_eq!(objective, asked("objectives.1.name", "irm", "fish"));
        // Hashes are never shown, and are the last that counts.
        let other = |v: &mut Value| v["task"]["experiment"]["examples"] = json!("cbf29ce484222325");
        assert_eq!(differs(&other), "the examples were others there");
        let both = differs(&|v| {
            other(v);
            v["task"]["experiment"]["side"] = json!(32);
        });
        assert_eq!(both, asked("side", "64", "32"));
        let told = |a: Value, b: Value| Difference::between(&a, &b).map(|d| d.to_string());
        assert_eq!(
            told(json!(null), json!({})),
            Some(asked("its description", "none", "set"))
        );
        assert_eq!(told(json!({ "a": 1 }), json!({ "a": 1 })), None);
    }
}
