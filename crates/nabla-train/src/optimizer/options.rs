//! The values of an optimizer by name, in the order in which its configuration has them.

use std::fmt;

use serde::de::{DeserializeOwned, Error as _, MapAccess, Visitor};
use serde::ser::{Error as _, SerializeMap};
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use serde_json::Value;

/// Values by name.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Options(Vec<(String, Value)>);

impl Options {
    /// The fields of a configuration.
    ///
    /// # Errors
    /// If it is no table of values.
    pub fn of<C: Serialize>(config: &C) -> Result<Self, serde_json::Error> {
        // By the text: a number of 32 bits keeps its few digits, 0.9 and not 0.8999999761581421.
        serde_json::from_str(&serde_json::to_string(config)?)
    }

    /// The configuration with these fields.
    ///
    /// # Errors
    /// If a field is missing or of another kind.
    pub fn to_config<C: DeserializeOwned>(&self) -> Result<C, serde_json::Error> {
        serde_json::from_value(Value::Object(self.0.iter().cloned().collect()))
    }

    /// The value of this name.
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

    /// Takes a value out.
    pub fn remove(&mut self, name: &str) -> Option<Value> {
        let place = self.0.iter().position(|(n, _)| n == name)?;
        Some(self.0.remove(place).1)
    }

    /// The names, in their order.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.0.iter().map(|(name, _)| name.as_str())
    }

    /// Names and values, in their order.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &Value)> {
        self.0.iter().map(|(name, value)| (name.as_str(), value))
    }
}

impl Serialize for Options {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut map = serializer.serialize_map(Some(self.0.len()))?;
        for (name, value) in &self.0 {
            map.serialize_entry(name, value).map_err(S::Error::custom)?;
        }
        map.end()
    }
}

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
    use burn::optim::AdamWConfig;

    #[test]
    fn a_configuration_keeps_its_order_and_its_digits() {
        let options = Options::of(&AdamWConfig::new().with_epsilon(1e-8)).unwrap();
        let text = serde_json::to_string(&options).unwrap();
        assert!(
            text.contains(r#""beta_1":0.9,"beta_2":0.999,"epsilon":1e-8,"#),
            "{text}"
        );
        let back: AdamWConfig = options.to_config().unwrap();
        assert_eq!(Options::of(&back).unwrap(), options);
    }
}
