//! Prompts: texts whose parts have weights, and which may be longer than the encoder takes.
//!
//! | text | meaning |
//! |---|---|
//! | `(word)` | its weight is multiplied by 1.1 |
//! | `(word:1.3)` | its weight is multiplied by 1.3 |
//! | `[word]` | its weight is divided by 1.1 |
//! | `((word))`, `(a (b:1.2))` | factors of nested brackets multiply |
//! | `\(`, `\)`, `\[`, `\]`, `\\` | the character itself |
//! | `BREAK` | the rest goes into the next part of the text |
//!
//! A bracket that is never closed counts to the end of the text; one that was never opened is text.
//!
//! These are the rules of AUTOMATIC1111's `stable-diffusion-webui`, which others adopted, with three
//! differences: `BREAK` within brackets is a break, where theirs becomes the word with a negative weight; a
//! weight that is not a number (`(word:1.2.3)`) is an error; and so is prompt editing (`[from:to:0.5]`,
//! `[one|other]`), which changes the text during the run and is not implemented.
//!
//! ```
//! use nabla_diffusion::stable_diffusion::prompt::{Prompt, PromptPiece};
//!
//! let prompt = Prompt::parse("a (red:1.5) house")?;
//! let [_, PromptPiece::Text { text, weight }, _] = prompt.pieces() else {
//!     panic!("three pieces");
//! };
//! assert_eq!((text.as_str(), *weight), ("red", 1.5));
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

/// The reason why a prompt cannot be understood.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PromptError {
    /// A weight is not a number.
    #[error("the weight {weight:?} in the prompt {prompt:?} is not a finite number such as 1.2")]
    Weight {
        /// The prompt.
        prompt: String,
        /// The weight.
        weight: String,
    },
    /// The text changes during the run.
    #[error(
        "{part:?} in the prompt {prompt:?} changes the text during the run, which is not implemented; \
         brackets that are text are written \\[ and \\]"
    )]
    Editing {
        /// The prompt.
        prompt: String,
        /// The part in brackets.
        part: String,
    },
}

/// How weights act on the encoded text.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Emphasis {
    /// The vectors of the words are multiplied by their weights; then all vectors are multiplied by the factor
    /// that restores their mean.
    #[default]
    Original,
    /// The vectors of the words are multiplied by their weights.
    NoNorm,
    /// There are no weights: brackets, backslashes and `BREAK` are text.
    None,
}

nabla_base::choices! {
    Emphasis: "emphasis" {
        "original" => Self::Original, "multiply the words' vectors, then restore their mean";
        "no-norm" => Self::NoNorm, "multiply the words' vectors";
        "none" => Self::None, "none: brackets are text";
    }
}

/// A piece of a prompt.
#[derive(Clone, Debug, PartialEq)]
pub enum PromptPiece {
    /// A text.
    Text {
        /// The text, without brackets.
        text: String,
        /// Its weight; 1 for plain text.
        weight: f64,
    },
    /// The rest belongs to the next part.
    Break,
}

/// A prompt; see the [module](self).
#[derive(Clone, Debug, PartialEq)]
pub struct Prompt {
    pieces: Vec<PromptPiece>,
    emphasis: Emphasis,
}

impl Prompt {
    /// A text without weights, in which brackets have no meaning.
    pub fn plain(text: &str) -> Self {
        Self {
            pieces: vec![PromptPiece::Text {
                text: text.to_owned(),
                weight: 1.0,
            }],
            emphasis: Emphasis::None,
        }
    }

    /// Reads weights and breaks.
    ///
    /// # Errors
    /// If a weight is not a number, or the prompt asks for a text that changes during the run.
    pub fn parse(text: &str) -> Result<Self, PromptError> {
        Ok(Self {
            pieces: Reader::new(text).read()?,
            emphasis: Emphasis::Original,
        })
    }

    /// Reads weights and breaks, and sets how the weights act; for [`Emphasis::None`] it is a
    /// [plain](Self::plain) text.
    ///
    /// # Errors
    /// As [`parse`](Self::parse).
    pub fn with_emphasis(text: &str, emphasis: Emphasis) -> Result<Self, PromptError> {
        match emphasis {
            Emphasis::None => Ok(Self::plain(text)),
            emphasis => Ok(Self {
                emphasis,
                ..Self::parse(text)?
            }),
        }
    }

    /// Its pieces, in order. Neighbouring texts have different weights.
    pub fn pieces(&self) -> &[PromptPiece] {
        &self.pieces
    }

    /// How its weights act.
    pub fn emphasis(&self) -> Emphasis {
        self.emphasis
    }
}

/// The factor of a pair of round brackets; a pair of square brackets divides by it.
const FACTOR: f64 = 1.1;

/// Reads a prompt from left to right.
struct Reader<'a> {
    whole: &'a str,
    pieces: Vec<PromptPiece>,
    /// The number of pieces before each open round bracket.
    round: Vec<usize>,
    /// The same for square brackets, and the bracket's place in the text.
    square: Vec<(usize, usize)>,
}

impl<'a> Reader<'a> {
    fn new(whole: &'a str) -> Self {
        Self {
            whole,
            pieces: Vec::new(),
            round: Vec::new(),
            square: Vec::new(),
        }
    }

    fn read(mut self) -> Result<Vec<PromptPiece>, PromptError> {
        let mut at = 0;
        while let Some(c) = self.whole[at..].chars().next() {
            let rest = &self.whole[at..];
            at += match c {
                '\\' => self.escape(rest),
                '(' => {
                    self.round.push(self.pieces.len());
                    1
                }
                '[' => {
                    self.square.push((self.pieces.len(), at));
                    1
                }
                ':' => self.colon(rest)?,
                ')' => {
                    match self.round.pop() {
                        Some(start) => self.multiply(start, FACTOR),
                        None => self.text(")"),
                    }
                    1
                }
                ']' => {
                    match self.square.pop() {
                        Some((start, open)) => {
                            self.refuse_editing(&self.whole[open..=at])?;
                            self.multiply(start, 1.0 / FACTOR);
                        }
                        None => self.text("]"),
                    }
                    1
                }
                _ => {
                    let end = rest.find(['\\', '(', ')', '[', ']', ':']);
                    let text = &rest[..end.unwrap_or(rest.len())];
                    self.words(text);
                    text.len()
                }
            };
        }
        for start in std::mem::take(&mut self.round) {
            self.multiply(start, FACTOR);
        }
        for (start, _) in std::mem::take(&mut self.square) {
            self.multiply(start, 1.0 / FACTOR);
        }
        for piece in &self.pieces {
            if let PromptPiece::Text { weight, .. } = piece
                && !weight.is_finite()
            {
                return Err(self.no_number(&weight.to_string()));
            }
        }
        Ok(joined(self.pieces))
    }

    fn no_number(&self, weight: &str) -> PromptError {
        PromptError::Weight {
            prompt: self.whole.to_owned(),
            weight: weight.to_owned(),
        }
    }

    /// Reads a backslash and the character that it protects; returns the number of bytes.
    fn escape(&mut self, rest: &str) -> usize {
        let next = rest[1..].chars().next();
        match next.filter(|c| ['(', ')', '[', ']', '\\'].contains(c)) {
            Some(c) => {
                self.text(c.encode_utf8(&mut [0; 4]));
                2
            }
            // A backslash before anything else disappears.
            None => 1,
        }
    }

    /// Reads a weight with the bracket that it closes, or a colon; returns the number of bytes.
    fn colon(&mut self, rest: &str) -> Result<usize, PromptError> {
        let Some((weight, length)) = weight(rest) else {
            self.text(":");
            return Ok(1);
        };
        match self.round.pop() {
            Some(start) => {
                let number = weight.parse().map_err(|_| self.no_number(weight))?;
                self.multiply(start, number);
            }
            None => self.text(&rest[..length]),
        }
        Ok(length)
    }

    fn multiply(&mut self, start: usize, factor: f64) {
        for piece in &mut self.pieces[start..] {
            if let PromptPiece::Text { weight, .. } = piece {
                *weight *= factor;
            }
        }
    }

    fn text(&mut self, text: &str) {
        self.pieces.push(PromptPiece::Text {
            text: text.to_owned(),
            weight: 1.0,
        });
    }

    /// Reads texts between words `BREAK`, without the spaces around them.
    fn words(&mut self, mut text: &str) {
        while let Some(at) = find_break(text) {
            self.text(text[..at].trim_end());
            self.pieces.push(PromptPiece::Break);
            text = text[at + BREAK.len()..].trim_start();
        }
        self.text(text);
    }

    /// - `part`: the text between square brackets, with them
    fn refuse_editing(&self, part: &str) -> Result<(), PromptError> {
        let inner = &part[1..part.len() - 1];
        let timed = inner.rsplit_once(':').is_some_and(|(_, last)| {
            let last = last.trim();
            !last.is_empty() && last.chars().all(|c| c == '.' || c.is_ascii_digit())
        });
        match timed || inner.contains('|') {
            true => Err(PromptError::Editing {
                prompt: self.whole.to_owned(),
                part: part.to_owned(),
            }),
            false => Ok(()),
        }
    }
}

/// `: 1.2 )` at the start of `rest`: the number, and the length with the bracket.
fn weight(rest: &str) -> Option<(&str, usize)> {
    let after = rest.strip_prefix(':')?.trim_start();
    let sign = usize::from(after.starts_with(['+', '-']));
    let digits = after[sign..].find(|c: char| c != '.' && !c.is_ascii_digit())?;
    let (number, after) = after.split_at(sign + digits);
    let after = after.trim_start().strip_prefix(')')?;
    (digits > 0).then(|| (number, rest.len() - after.len()))
}

const BREAK: &str = "BREAK";

/// The place of the first `BREAK` that is a word of its own.
fn find_break(text: &str) -> Option<usize> {
    let letter = |c: char| c.is_alphanumeric() || c == '_';
    let mut places = text.match_indices(BREAK).map(|(at, _)| at);
    places
        .find(|&at| !text[..at].ends_with(letter) && !text[at + BREAK.len()..].starts_with(letter))
}

/// The pieces with neighbouring texts of the same weight as one text, and without empty texts.
fn joined(pieces: Vec<PromptPiece>) -> Vec<PromptPiece> {
    let mut all: Vec<PromptPiece> = Vec::new();
    for piece in pieces {
        match (all.last_mut(), &piece) {
            (_, PromptPiece::Text { text, .. }) if text.is_empty() => {}
            (
                Some(PromptPiece::Text {
                    text: before,
                    weight: of_it,
                }),
                PromptPiece::Text { text, weight },
            ) if of_it == weight => *before += text,
            _ => all.push(piece),
        }
    }
    all
}

#[cfg(test)]
mod tests {
    use super::*;

    fn texts(prompt: &str) -> Vec<(String, f64)> {
        let pieces = Prompt::parse(prompt).unwrap().pieces;
        let texts = pieces.into_iter().map(|piece| match piece {
            PromptPiece::Text { text, weight } => (text, weight),
            PromptPiece::Break => ("BREAK".to_owned(), -1.0),
        });
        texts.collect()
    }

    /// The examples in the documentation of `parse_prompt_attention` of AUTOMATIC1111's program, and what it
    /// gives for others (version 1.10).
    #[test]
    fn weights_are_those_of_the_program_that_introduced_them() {
        let c = 1.1;
        let long = "a (((house:1.3)) [on] a (hill:0.5), sun, (((sky))).";
        let cases: [(&str, &[(&str, f64)]); 22] = [
            ("normal text", &[("normal text", 1.0)]),
            (
                "an (important) word",
                &[("an ", 1.0), ("important", c), (" word", 1.0)],
            ),
            ("(unbalanced", &[("unbalanced", c)]),
            (r"\(literal\]", &[("(literal]", 1.0)]),
            ("(unnecessary)(parens)", &[("unnecessaryparens", c)]),
            (
                long,
                &[
                    ("a ", 1.0),
                    ("house", 1.3 * c * c),
                    (" ", c),
                    ("on", 1.0 / c * c),
                    (" a ", c),
                    ("hill", 0.5 * c),
                    (", sun, ", c),
                    ("sky", c * c * c * c),
                    (".", c),
                ],
            ),
            ("", &[]),
            ("a:b", &[("a:b", 1.0)]),
            ("(a:b)", &[("a:b", c)]),
            ("(a: 1.5 )", &[("a", 1.5)]),
            ("(a:-.5)", &[("a", -0.5)]),
            ("(a:+2)b", &[("a", 2.0), ("b", 1.0)]),
            ("a:1.2) b", &[("a:1.2) b", 1.0)]),
            ("[a)", &[("a)", 1.0 / c)]),
            ("a] b)", &[("a] b)", 1.0)]),
            (r"a\b \\ \:", &[(r"ab \ :", 1.0)]),
            ("(a (b:2):3)", &[("a ", 3.0), ("b", 6.0)]),
            (
                "one BREAK two",
                &[("one", 1.0), ("BREAK", -1.0), ("two", 1.0)],
            ),
            ("BREAKFAST _BREAK", &[("BREAKFAST _BREAK", 1.0)]),
            ("BREAK\n\nBREAK", &[("BREAK", -1.0), ("BREAK", -1.0)]),
            ("(a BREAK b:2)", &[("a", 2.0), ("BREAK", -1.0), ("b", 2.0)]),
            ("(é:1.2) ü", &[("é", 1.2), (" ü", 1.0)]),
        ];
        for (prompt, expected) in cases {
            let found = texts(prompt);
            assert_eq!(found.len(), expected.len(), "{prompt}: {found:?}");
            for ((text, weight), (expected, of_it)) in found.iter().zip(expected) {
                assert_eq!(text, expected, "{prompt}");
                assert!((weight - of_it).abs() < 1e-12, "{prompt}: {weight} {of_it}");
            }
        }
    }

    #[test]
    fn what_cannot_be_understood_is_told() {
        let told = |prompt: &str| Prompt::parse(prompt).unwrap_err().to_string();
        assert!(told("a (b:1.2.3)").contains("the weight \"1.2.3\" in the prompt"));
        let huge = format!("(a:{})", "9".repeat(400));
        assert!(told(&huge).contains("is not a finite number"));
        for editing in ["[a:b:0.5]", "[a:10]", "x [one|two] y"] {
            assert!(
                told(editing).contains("changes the text during the run"),
                "{editing}"
            );
        }
        // Brackets that are text, and a weight within brackets.
        for fine in [r"\[a:b:0.5\]", "[(a:0.5)]", "[a: b]"] {
            assert!(Prompt::parse(fine).is_ok(), "{fine}");
        }
        let plain = Prompt::with_emphasis("[a:b:0.5] (c:1.2.3)", Emphasis::None).unwrap();
        assert_eq!(plain, Prompt::plain("[a:b:0.5] (c:1.2.3)"));
    }

    proptest::proptest! {
        #[test]
        fn any_text_is_read_or_refused(text in r"[a-cBREAK1.:|()\[\]\\ é+-]{0,24}|\PC{0,24}") {
            if let Ok(prompt) = Prompt::parse(&text) {
                for piece in prompt.pieces() {
                    if let PromptPiece::Text { text, weight } = piece {
                        assert!(!text.is_empty() && weight.is_finite());
                    }
                }
            }
        }
    }
}
