//! The header of a `safetensors` file, read by our own rules.
//!
//! ```text
//! 8 bytes: the header's length, little-endian; the header, JSON; the tensors' bytes
//! {"__metadata__": {"key": "text"}, "name": {"dtype": "F32", "shape": [2, 3], "data_offsets": [0, 24]}}
//! ```
//!
//! Everything that the format's own library accepts is accepted: unknown keys besides the three, white space
//! around the object, `null` for the metadata, a file without tensors, empty tensors, and data that start at
//! any address. Gaps between tensors, overlaps and bytes after the last tensor are refused, as in the
//! library. A duplicate name is refused too, where the library takes the last one. If the type of a tensor is
//! not among the 22, the error names the tensor.
//!
//! Source: <https://github.com/huggingface/safetensors>, version 0.8.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use safetensors::tensor::Dtype;
use serde::de::{Deserialize, Deserializer, MapAccess, Visitor};
use serde_json::Value;

/// A tensor of the file.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct HeaderEntry {
    pub(super) name: String,
    pub(super) dtype: Dtype,
    pub(super) shape: Vec<usize>,
    /// Its start after the header, in bytes.
    pub(super) start: usize,
    /// Its end.
    pub(super) end: usize,
}

/// The header.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Header {
    /// In the order of their bytes.
    pub(super) entries: Vec<HeaderEntry>,
    /// The metadata of the file.
    pub(super) metadata: BTreeMap<String, String>,
}

/// All members of an object, including duplicates.
struct Members(Vec<(String, Value)>);

impl<'de> Deserialize<'de> for Members {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct All;
        impl<'de> Visitor<'de> for All {
            type Value = Members;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Members, A::Error> {
                let mut members = Vec::new();
                while let Some(member) = map.next_entry()? {
                    members.push(member);
                }
                Ok(Members(members))
            }
        }
        deserializer.deserialize_map(All)
    }
}

impl Header {
    /// Reads a header.
    ///
    /// - `text`: its JSON
    /// - `data`: the number of bytes after it in the file
    ///
    /// # Errors
    /// A description of the fault.
    pub(super) fn parse(text: &[u8], data: u64) -> Result<Self, String> {
        let Members(members) = serde_json::from_slice(text)
            .map_err(|e| format!("its header is not a JSON object: {e}"))?;
        let mut header = Self::default();
        let mut met = BTreeSet::new();
        for (name, value) in members {
            if !met.insert(name.clone()) {
                return Err(format!("its header has {name:?} twice"));
            }
            match name.as_str() {
                "__metadata__" => header.metadata = metadata(&value)?,
                _ => header.entries.push(entry(name, &value)?),
            }
        }
        header.entries.sort_by_key(|entry| (entry.start, entry.end));
        let mut end = 0;
        for entry in &header.entries {
            let what = match entry.start.cmp(&end) {
                std::cmp::Ordering::Less => "overlap those of another tensor",
                std::cmp::Ordering::Greater => "follow a hole",
                std::cmp::Ordering::Equal => {
                    end = entry.end;
                    continue;
                }
            };
            return Err(format!(
                "the bytes of {} begin at {} and {what}, which ends at {end}",
                entry.name, entry.start
            ));
        }
        match data.cmp(&(end as u64)) {
            std::cmp::Ordering::Less => {
                Err(format!("it is cut off: {data} of {end} bytes of tensors"))
            }
            std::cmp::Ordering::Greater => Err(format!(
                "{} bytes follow the last of its tensors",
                data - end as u64
            )),
            std::cmp::Ordering::Equal => Ok(header),
        }
    }
}

fn metadata(value: &Value) -> Result<BTreeMap<String, String>, String> {
    let wrong = || "its __metadata__ must be an object of texts".to_owned();
    match value {
        Value::Null => Ok(BTreeMap::new()),
        Value::Object(members) => members
            .iter()
            .map(|(key, value)| Ok((key.clone(), value.as_str().ok_or_else(wrong)?.to_owned())))
            .collect(),
        _ => Err(wrong()),
    }
}

fn entry(name: String, value: &Value) -> Result<HeaderEntry, String> {
    let wrong = |what: String| format!("the tensor {name} {what}");
    let dtype = value.get("dtype").and_then(Value::as_str);
    let dtype = dtype.ok_or_else(|| wrong("has no dtype".into()))?;
    let dtype: Dtype = serde_json::from_value(Value::String(dtype.to_owned()))
        .map_err(|_| wrong(format!("is of the type {dtype:?}, which is not known")))?;
    let numbers = |key: &str| -> Option<Vec<usize>> {
        let numbers = value.get(key)?.as_array()?.iter();
        numbers
            .map(|n| n.as_u64().and_then(|n| n.try_into().ok()))
            .collect()
    };
    let shape = numbers("shape").ok_or_else(|| wrong("has no shape of whole numbers".into()))?;
    let Some([start, end]) = numbers("data_offsets").and_then(|o| <[usize; 2]>::try_from(o).ok())
    else {
        return Err(wrong("has no two data_offsets".into()));
    };
    let bits = shape
        .iter()
        .try_fold(dtype.bitsize(), |product, &n| product.checked_mul(n))
        .ok_or_else(|| wrong(format!("has the shape {shape:?}, which is too large")))?;
    if !bits.is_multiple_of(8) {
        return Err(wrong(format!(
            "has {bits} bits, which do not fill whole bytes"
        )));
    }
    if start > end || end - start != bits / 8 {
        return Err(wrong(format!(
            "of {dtype} and the shape {shape:?} needs {} bytes, but it is said to lie from {start} to {end}",
            bits / 8
        )));
    }
    Ok(HeaderEntry {
        name,
        dtype,
        shape,
        start,
        end,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn told(text: &str, data: u64) -> String {
        Header::parse(text.as_bytes(), data).unwrap_err()
    }

    fn one(dtype: &str, shape: &str, offsets: [usize; 2]) -> String {
        format!(r#"{{"a": {{"dtype": "{dtype}", "shape": {shape}, "data_offsets": {offsets:?}}}}}"#)
    }

    /// The names and sizes of the types in safetensors 0.8.
    #[test]
    fn all_types_are_known_by_name() {
        let types = [
            ("BOOL", 8),
            ("F4", 4),
            ("F6_E2M3", 6),
            ("F6_E3M2", 6),
            ("U8", 8),
            ("I8", 8),
            ("F8_E5M2", 8),
            ("F8_E4M3", 8),
            ("F8_E8M0", 8),
            ("F8_E4M3FNUZ", 8),
            ("F8_E5M2FNUZ", 8),
            ("I16", 16),
            ("U16", 16),
            ("F16", 16),
            ("BF16", 16),
            ("I32", 32),
            ("U32", 32),
            ("F32", 32),
            ("C64", 64),
            ("F64", 64),
            ("I64", 64),
            ("U64", 64),
        ];
        assert_eq!(types.len(), 22);
        for (name, bits) in types {
            let header = Header::parse(one(name, "[2, 4]", [0, bits]).as_bytes(), bits as u64);
            let header = header.unwrap_or_else(|e| panic!("{name}: {e}"));
            assert_eq!(header.entries[0].dtype.to_string(), name);
            assert_eq!(header.entries[0].shape, [2, 4]);
        }
        assert_eq!(
            told(&one("F8_E3M4", "[1]", [0, 1]), 1),
            "the tensor a is of the type \"F8_E3M4\", which is not known"
        );
        assert!(told(&one("f32", "[1]", [0, 4]), 4).contains("\"f32\", which is not known"));
        assert!(told(&one("F4", "[3]", [0, 2]), 2).contains("12 bits, which do not fill"));
        assert!(told(&one("F32", "[2]", [0, 4]), 4).contains("needs 8 bytes"));
        let huge = one("F32", "[18446744073709551615, 2]", [0, 4]);
        assert!(told(&huge, 4).contains("too large"));
    }

    /// What safetensors 0.8 takes, see `tests/reference/safetensors_headers.py`.
    #[test]
    fn odd_but_valid_headers_are_accepted() {
        let accepted = |text: &str, data: u64| Header::parse(text.as_bytes(), data).unwrap();
        assert_eq!(accepted("{}", 0).entries.len(), 0);
        let unknown =
            r#" {"a": {"dtype": "U8", "more": [1], "shape": [3], "data_offsets": [0, 3]}}  "#;
        assert_eq!(accepted(unknown, 3).entries[0].end, 3);
        assert!(accepted(r#"{"__metadata__": null}"#, 0).metadata.is_empty());
        let said = accepted(r#"{"__metadata__": {"format": "pt"}}"#, 0);
        assert_eq!(said.metadata["format"], "pt");
        // Empty tensors anywhere, and a scalar.
        let empty = r#"{"b": {"dtype": "F32", "shape": [], "data_offsets": [0, 4]},
            "a": {"dtype": "F32", "shape": [2, 0], "data_offsets": [4, 4]},
            "c": {"dtype": "F32", "shape": [0], "data_offsets": [0, 0]}}"#;
        let names: Vec<String> = accepted(empty, 4)
            .entries
            .into_iter()
            .map(|e| e.name)
            .collect();
        assert_eq!(names, ["c", "b", "a"]);
    }

    #[test]
    fn what_is_wrong_is_refused_by_name() {
        let two = |first: [usize; 2], second: [usize; 2]| {
            format!(
                r#"{{"a": {{"dtype": "U8", "shape": [2], "data_offsets": {first:?}}},
                "b": {{"dtype": "U8", "shape": [2], "data_offsets": {second:?}}}}}"#
            )
        };
        assert!(Header::parse(two([2, 4], [0, 2]).as_bytes(), 4).is_ok());
        assert!(
            told(&two([0, 2], [3, 5]), 5).contains("the bytes of b begin at 3 and follow a hole")
        );
        assert!(told(&two([1, 3], [3, 5]), 5).contains("a begin at 1 and follow a hole"));
        assert!(told(&two([0, 2], [1, 3]), 3).contains("b begin at 1 and overlap"));
        assert!(told(&two([0, 2], [2, 4]), 5).contains("1 bytes follow the last"));
        assert!(told(&two([0, 2], [2, 4]), 3).contains("cut off: 3 of 4 bytes"));
        assert!(told("{}", 1).contains("1 bytes follow"));
        let twice = two([0, 2], [2, 4]).replace("\"b\"", "\"a\"");
        assert_eq!(told(&twice, 4), "its header has \"a\" twice");
        let metadata = r#"{"__metadata__": {"a": 1}}"#;
        assert!(told(metadata, 0).contains("__metadata__ must be an object of texts"));
        assert!(told("[]", 0).contains("not a JSON object"));
        assert!(told("{", 0).contains("not a JSON object"));
        assert!(told(r#"{"a": 1}"#, 0).contains("the tensor a has no dtype"));
        assert!(told(&one("U8", "[-1]", [0, 1]), 1).contains("no shape"));
        assert!(
            told(
                r#"{"a": {"dtype": "U8", "shape": [1], "data_offsets": [0]}}"#,
                1
            )
            .contains("two")
        );
    }
}
