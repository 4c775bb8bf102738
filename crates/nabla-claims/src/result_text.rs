//! Results as text: JSON that is readable for people and suits version control.

use std::io;

use serde::Serialize;
use serde_json::ser::{Formatter, PrettyFormatter, Serializer};

/// Indented JSON in which a list without objects is on one line: the values of the seeds, the points of a curve.
pub(crate) fn to_text<T: Serialize>(value: &T) -> Result<String, serde_json::Error> {
    let mut bytes = Vec::new();
    let mut serializer = Serializer::with_formatter(&mut bytes, Lines::default());
    value.serialize(&mut serializer)?;
    bytes.push(b'\n');
    // serde_json writes only UTF-8.
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

/// Lists on one line, but each object of a list on lines of its own.
#[derive(Default)]
struct Lines {
    objects: PrettyFormatter<'static>,
    /// The depth of the current object.
    depth: usize,
    /// For each open list, whether it has an object.
    lists: Vec<bool>,
    /// Whether the next value belongs to a list, and not to a key.
    in_list: bool,
}

impl Lines {
    fn new_line<W: ?Sized + io::Write>(&self, writer: &mut W) -> io::Result<()> {
        writer.write_all(b"\n")?;
        (0..self.depth).try_for_each(|_| writer.write_all(b"  "))
    }
}

impl Formatter for Lines {
    fn begin_array<W: ?Sized + io::Write>(&mut self, writer: &mut W) -> io::Result<()> {
        self.lists.push(false);
        self.depth += 1;
        writer.write_all(b"[")
    }

    fn end_array<W: ?Sized + io::Write>(&mut self, writer: &mut W) -> io::Result<()> {
        self.depth -= 1;
        if self.lists.pop() == Some(true) {
            self.new_line(writer)?;
        }
        writer.write_all(b"]")
    }

    fn begin_array_value<W: ?Sized + io::Write>(
        &mut self,
        writer: &mut W,
        first: bool,
    ) -> io::Result<()> {
        self.in_list = true;
        match (first, self.lists.last()) {
            (true, _) => Ok(()),
            // The next object starts a line.
            (false, Some(true)) => writer.write_all(b","),
            (false, _) => writer.write_all(b", "),
        }
    }

    fn begin_object<W: ?Sized + io::Write>(&mut self, writer: &mut W) -> io::Result<()> {
        if self.in_list {
            if let Some(objects) = self.lists.last_mut() {
                *objects = true;
            }
            self.new_line(writer)?;
        }
        self.in_list = false;
        self.depth += 1;
        writer.write_all(b"{")
    }

    fn end_object<W: ?Sized + io::Write>(&mut self, writer: &mut W) -> io::Result<()> {
        self.depth -= 1;
        self.new_line(writer)?;
        writer.write_all(b"}")
    }

    fn begin_object_key<W: ?Sized + io::Write>(
        &mut self,
        writer: &mut W,
        first: bool,
    ) -> io::Result<()> {
        if !first {
            writer.write_all(b",")?;
        }
        self.new_line(writer)
    }

    fn begin_object_value<W: ?Sized + io::Write>(&mut self, writer: &mut W) -> io::Result<()> {
        self.in_list = false;
        self.objects.begin_object_value(writer)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    #[test]
    fn lists_of_numbers_are_on_a_line_and_objects_on_their_own() {
        let value = json!({
            "a": [1.5, 2, [3, 4]],
            "b": [{"c": []}, {"d": {"e": [true]}}],
            "f": {},
        });
        let text = to_text(&value).unwrap();
        let expected = concat!(
            "{\n",
            "  \"a\": [1.5, 2, [3, 4]],\n",
            "  \"b\": [\n",
            "    {\n",
            "      \"c\": []\n",
            "    },\n",
            "    {\n",
            "      \"d\": {\n",
            "        \"e\": [true]\n",
            "      }\n",
            "    }\n",
            "  ],\n",
            "  \"f\": {\n",
            "  }\n",
            "}\n",
        );
        assert_eq!(text, expected);
        assert_eq!(serde_json::from_str::<Value>(&text).unwrap(), value);
    }
}
