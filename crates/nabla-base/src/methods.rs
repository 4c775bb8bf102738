//! The published methods with their papers, as `methods.toml` beside this crate's `Cargo.toml` lists them:
//! the only place of their names, papers and states.
//!
//! ```
//! use nabla_base::methods::{METHODS, method};
//!
//! let adamp = method("adamp").ok_or("there is no such method")?;
//! assert_eq!((adamp.name, adamp.paper.year), ("AdamP", 2020));
//! assert_eq!(adamp.paper.url().as_deref(), Some("https://arxiv.org/abs/2006.08217"));
//! assert_eq!(METHODS.len(), 56);
//! # Ok::<(), &str>(())
//! ```

use std::borrow::Cow;
use std::sync::LazyLock;

use serde::{Deserialize, Serialize};

/// The paper of a method.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Paper {
    /// The full title.
    pub title: Cow<'static, str>,
    /// The authors, shortened with `et al.` if there are many.
    pub authors: Cow<'static, str>,
    /// The year of the first public version.
    pub year: u16,
    /// The arXiv number such as `2404.10312`, if it has one; all of [`METHODS`] have.
    pub arxiv: Option<Cow<'static, str>>,
}

impl Paper {
    /// A paper with an arXiv number, for an experiment that is not about one of the [`METHODS`].
    pub const fn new(
        title: &'static str,
        authors: &'static str,
        year: u16,
        arxiv: &'static str,
    ) -> Self {
        Self {
            title: Cow::Borrowed(title),
            authors: Cow::Borrowed(authors),
            year,
            arxiv: Some(Cow::Borrowed(arxiv)),
        }
    }

    /// A paper without an arXiv number.
    pub const fn without_arxiv(title: &'static str, authors: &'static str, year: u16) -> Self {
        Self {
            title: Cow::Borrowed(title),
            authors: Cow::Borrowed(authors),
            year,
            arxiv: None,
        }
    }

    /// The address of the paper's abstract page, if it has an arXiv number.
    pub fn url(&self) -> Option<String> {
        let arxiv = self.arxiv.as_ref()?;
        Some(format!("https://arxiv.org/abs/{arxiv}"))
    }
}

/// The state of a method.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum State {
    /// It is implemented, and its claim can be run.
    Done,
    /// It is not implemented yet.
    Planned,
}

impl State {
    /// The state in one word.
    pub fn word(self) -> &'static str {
        match self {
            State::Done => "done",
            State::Planned => "planned",
        }
    }
}

/// A published method.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Method {
    /// Its name in commands and file names.
    pub slug: &'static str,
    /// Its usual name.
    pub name: &'static str,
    /// Its crate, which may not exist yet.
    pub crate_name: &'static str,
    /// The path of its module in the crate, such as `guidance::adaptive`.
    pub module: Cow<'static, str>,
    /// Its paper.
    pub paper: Paper,
    /// Its state.
    pub state: State,
}

/// The published methods, crate by crate.
pub static METHODS: LazyLock<Vec<Method>> = LazyLock::new(|| parse(SOURCE));

/// The method with this slug.
pub fn method(slug: &str) -> Option<&'static Method> {
    METHODS.iter().find(|method| method.slug == slug)
}

const SOURCE: &str = include_str!("../methods.toml");

/// Reads the methods of a text in the subset of TOML that `methods.toml` keeps to: a line `[[method]]` starts
/// a method, and each other line is `key = "string"`, `key = number`, a comment or empty.
///
/// The text is a part of the crate, so errors in it are found by the test that reads it with a complete TOML
/// parser, not by users.
fn parse(text: &'static str) -> Vec<Method> {
    let tables = text.split("[[method]]").skip(1);
    let value = |table: &'static str, key: &str| {
        let mut pairs = table.lines().filter_map(|line| line.split_once(" = "));
        let found = pairs.find(|(name, _)| *name == key);
        found.map_or("", |(_, value)| value.trim_matches('"'))
    };
    tables
        .map(|table| Method {
            slug: value(table, "slug"),
            name: value(table, "name"),
            crate_name: value(table, "crate"),
            module: match value(table, "module") {
                "" => Cow::Owned(value(table, "slug").replace('-', "_")),
                module => Cow::Borrowed(module),
            },
            paper: Paper {
                title: Cow::Borrowed(value(table, "title")),
                authors: Cow::Borrowed(value(table, "authors")),
                year: value(table, "year").parse().unwrap_or(0),
                arxiv: Some(Cow::Borrowed(value(table, "arxiv"))),
            },
            state: match value(table, "state") {
                "done" => State::Done,
                _ => State::Planned,
            },
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::{BTreeMap, BTreeSet};
    use std::path::Path;

    #[derive(Deserialize)]
    #[serde(deny_unknown_fields)]
    struct Whole {
        method: Vec<Entry>,
    }

    #[derive(Deserialize)]
    #[serde(deny_unknown_fields)]
    struct Entry {
        slug: String,
        name: String,
        #[serde(rename = "crate")]
        crate_name: String,
        module: Option<String>,
        state: Written,
        title: String,
        authors: String,
        year: u16,
        arxiv: String,
    }

    #[derive(Deserialize)]
    #[serde(rename_all = "lowercase")]
    enum Written {
        Done,
        Planned,
    }

    /// The `toml` crate reads the same, with no key missing and none unknown.
    #[test]
    fn a_whole_parser_reads_the_same_methods() {
        let whole: Whole = toml::from_str(SOURCE).unwrap();
        assert_eq!(whole.method.len(), METHODS.len());
        for (entry, method) in whole.method.iter().zip(METHODS.iter()) {
            let read = (method.slug, method.name, method.crate_name);
            let names = (&*entry.slug, &*entry.name, &*entry.crate_name);
            assert_eq!(read, names);
            let module = entry.module.clone();
            let module = module.unwrap_or_else(|| entry.slug.replace('-', "_"));
            assert_eq!(method.module, module);
            let paper = Paper {
                title: entry.title.clone().into(),
                authors: entry.authors.clone().into(),
                year: entry.year,
                arxiv: Some(entry.arxiv.clone().into()),
            };
            assert_eq!(method.paper, paper);
            let state = match entry.state {
                Written::Done => State::Done,
                Written::Planned => State::Planned,
            };
            assert_eq!(method.state, state, "{}", method.slug);
        }
    }

    #[test]
    fn there_are_56_with_names_and_papers_of_their_own() {
        assert_eq!(METHODS.len(), 56);
        let distinct = |of: fn(&'static Method) -> &'static str| {
            let all: BTreeSet<&str> = METHODS.iter().map(of).collect();
            assert!(all.len() == 56 && !all.contains(""), "{all:?}");
        };
        distinct(|m| m.slug);
        distinct(|m| m.name);
        distinct(|m| &m.paper.title);
        distinct(|m| m.paper.arxiv.as_deref().unwrap_or_default());
        for method in METHODS.iter() {
            let fits = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-';
            assert!(method.slug.bytes().all(fits), "{}", method.slug);
            assert!(!method.paper.authors.is_empty(), "{}", method.slug);
            let (month, number) = method
                .paper
                .arxiv
                .as_ref()
                .unwrap()
                .split_once('.')
                .unwrap();
            let digits = |text: &str| text.bytes().all(|b| b.is_ascii_digit());
            assert!(month.len() == 4 && number.len() == 5 && digits(month) && digits(number));
            // The first version's year is in the number.
            let year: u16 = month[..2].parse().unwrap();
            assert_eq!(method.paper.year, 2000 + year, "{}", method.slug);
        }
    }

    /// A crate of the workspace, or one of those to come.
    #[test]
    fn every_crate_exists_or_is_planned() {
        let planned = [
            "nabla-share",
            "nabla-private",
            "nabla-probe",
            "nabla-align",
            "nabla-compress",
            "nabla-physics",
            "nabla-generate",
        ];
        let crates = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
        let mut counts = BTreeMap::new();
        for method in METHODS.iter() {
            *counts.entry(method.crate_name).or_insert(0) += 1;
            let exists = crates.join(method.crate_name).join("Cargo.toml").is_file();
            match method.state {
                State::Done => assert!(exists, "{}", method.crate_name),
                State::Planned => assert!(
                    exists || planned.contains(&method.crate_name),
                    "{}",
                    method.crate_name
                ),
            }
        }
        let expected = BTreeMap::from([
            ("nabla-optim", 4),
            ("nabla-solve", 5),
            ("nabla-share", 4),
            ("nabla-private", 3),
            ("nabla-probe", 6),
            ("nabla-align", 3),
            ("nabla-compress", 4),
            ("nabla-physics", 9),
            ("nabla-diffusion", 11),
            ("nabla-panorama", 1),
            ("nabla-generate", 6),
        ]);
        assert_eq!(counts, expected);
    }

    #[test]
    fn every_method_that_is_done_has_its_module() {
        let crates = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
        for method in METHODS.iter().filter(|m| m.state == State::Done) {
            let path = method.module.split("::").collect::<Vec<_>>().join("/");
            let module = crates.join(method.crate_name).join("src").join(path);
            let files = [module.with_extension("rs"), module.join("mod.rs")];
            let found = files.iter().any(|file| file.is_file());
            assert!(found, "there is no {}", files[0].display());
        }
    }
}
