//! Ranking by a person or a program, over lines of text.
//!
//! [`ProtocolOracle`] writes questions to one stream and reads answers from another: the standard streams of
//! this program, for a person at a terminal, or those of a child process or a socket, for a program
//! ([`serve`] is the other side, for a program in Rust). This is version 1 of the protocol, in UTF-8, one
//! message per line:
//!
//! ```text
//! → nabla-ranking 1                                            once, at the beginning
//! → {"question":0,"candidates":3,"best":2,"dimension":2}       then, for every question:
//! → {"id":1,"point":[0.5,-1.25]}                               `candidates` lines of this form,
//! → {"id":2,"point":[0.25,0.0]}                                ids from 1 in this order
//! → {"id":3,"point":[1.0,3.5]}
//! ← 3 1                                                        the `best` best ids, best first
//! ```
//!
//! * Ids are separated by spaces, commas or `>`; empty lines are skipped; the answer `quit` ends the run
//!   ([`ProtocolError::Quit`]), and so does the end of the input ([`ProtocolError::End`]). In both cases, the
//!   run stays at its question and can be saved.
//! * A question's `number` counts the questions of the run, also when it is resumed.
//! * An invalid answer is refused with a line `error: …` that says why, and the next line is read instead, up
//!   to a maximum number of [`attempts`](ProtocolOracle::with_attempts).
//! * Coordinates are written with all digits, so that they are read back exactly.
//!
//! The points of a line search are in the order of the length of the step, which a person may notice;
//! [`shuffled`](ProtocolOracle::shuffled) hides it.

use std::io::{self, BufRead, Write};

use nabla_grad::seeded_noise::SeededNoise;
use rand::seq::SliceRandom;
use serde::{Deserialize, Serialize};

use crate::ranking_oracle::{Ranking, RankingOracle, RankingQuestion};

/// The first line: the protocol and its version.
pub const FIRST_LINE: &str = "nabla-ranking 1";

/// The maximum length of an answer, in bytes.
const LONGEST_ANSWER: u64 = 1 << 20;

/// The maximum length of a line for [`serve`], in bytes.
const LONGEST_POINT: u64 = 1 << 32;

/// The reason why an answer is invalid.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum AnswerError {
    /// A word is not an id.
    #[error("`{word}` is not an id: the answer must be ids from 1 to {candidates}, the best first")]
    Word {
        /// What was found.
        word: String,
        /// How many ids there are.
        candidates: usize,
    },
    /// An id does not exist.
    #[error("there is no id {id}: the ids are 1 to {candidates}")]
    Unknown {
        /// The id.
        id: u64,
        /// How many ids there are.
        candidates: usize,
    },
    /// An id occurs twice.
    #[error("id {id} is named twice")]
    Duplicate {
        /// The id.
        id: u64,
    },
    /// The number of ids is wrong.
    #[error("the answer names {found} ids, but the best {expected} were requested")]
    Count {
        /// Asked for.
        expected: usize,
        /// Named.
        found: usize,
    },
    /// The line is too long.
    #[error("the answer is longer than {LONGEST_ANSWER} bytes")]
    TooLong,
    /// The bytes are not text.
    #[error("the answer is not UTF-8 text")]
    NotText,
}

/// The reason why there is no answer.
#[derive(Debug, thiserror::Error)]
pub enum ProtocolError {
    /// The answer `quit`.
    #[error("the ranker has quit")]
    Quit,
    /// The input ended.
    #[error("the input ended before question {question} was answered")]
    End {
        /// Its number.
        question: u64,
    },
    /// No attempt had a valid answer.
    #[error("question {question} has no valid answer in {attempts} attempts; the last: {error}")]
    Answer {
        /// Its number.
        question: u64,
        /// How many there were.
        attempts: usize,
        /// What was wrong with the last one.
        #[source]
        error: AnswerError,
    },
    /// A stream cannot be read or written.
    #[error("the ranker cannot be reached: {0}")]
    Io(#[from] io::Error),
    /// A message is invalid; for the other side.
    #[error("`{line}` is not a valid {expected} of the ranking protocol")]
    Message {
        /// The line, or its beginning.
        line: String,
        /// What it should be.
        expected: &'static str,
    },
    /// An answer was refused; for the other side.
    #[error("the answer was refused: {0}")]
    Refused(String),
}

/// The meaning of a line of the ranker.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Answer {
    /// The best candidates, from 0 and in the order of the question, the best first.
    Best(Vec<usize>),
    /// No more questions.
    Quit,
}

/// Reads an answer to a question for the `best` best of `candidates`.
///
/// ```
/// use nabla_solve::ranking_protocol::{Answer, parse_answer};
/// assert_eq!(parse_answer("3 > 1", 3, 2), Ok(Answer::Best(vec![2, 0])));
/// assert_eq!(parse_answer("quit", 3, 2), Ok(Answer::Quit));
/// assert_eq!(
///     parse_answer("4 1", 3, 2).unwrap_err().to_string(),
///     "there is no id 4: the ids are 1 to 3"
/// );
/// ```
///
/// # Errors
/// If it is invalid.
pub fn parse_answer(line: &str, candidates: usize, best: usize) -> Result<Answer, AnswerError> {
    if line.trim() == "quit" {
        return Ok(Answer::Quit);
    }
    let words = line.split(|c: char| c.is_whitespace() || c == ',' || c == '>');
    let mut named = Vec::new();
    let mut seen = vec![false; candidates];
    for word in words.filter(|word| !word.is_empty()) {
        // Digits only: `parse` would also take a sign.
        let digits = word.bytes().all(|b| b.is_ascii_digit());
        let Some(id) = word.parse::<u64>().ok().filter(|_| digits) else {
            return Err(AnswerError::Word {
                word: beginning(word),
                candidates,
            });
        };
        let place = id.checked_sub(1).and_then(|i| usize::try_from(i).ok());
        let Some((candidate, seen)) = place.and_then(|i| Some((i, seen.get_mut(i)?))) else {
            return Err(AnswerError::Unknown { id, candidates });
        };
        if std::mem::replace(seen, true) {
            return Err(AnswerError::Duplicate { id });
        }
        named.push(candidate);
    }
    if named.len() == best {
        Ok(Answer::Best(named))
    } else {
        Err(AnswerError::Count {
            expected: best,
            found: named.len(),
        })
    }
}

/// At most 40 characters of `text`.
fn beginning(text: &str) -> String {
    let mut characters = text.chars();
    let mut beginning: String = characters.by_ref().take(40).collect();
    if characters.next().is_some() {
        beginning.push('…');
    }
    beginning
}

/// A line of at most `longest` bytes without its end; `None` at the end of the input. A line that is too long
/// is an inner `Err`.
fn read_line(input: &mut impl BufRead, longest: u64) -> io::Result<Option<Result<Vec<u8>, ()>>> {
    let mut line = Vec::new();
    io::Read::take(&mut *input, longest + 1).read_until(b'\n', &mut line)?;
    if line.is_empty() {
        return Ok(None);
    }
    if line.last() == Some(&b'\n') {
        line.pop();
    } else if line.len() as u64 > longest {
        return Ok(Some(Err(())));
    }
    Ok(Some(Ok(line)))
}

/// Skips to the end of a line.
fn skip_line(input: &mut impl BufRead) -> io::Result<()> {
    loop {
        let buffer = input.fill_buf()?;
        let end = buffer.iter().position(|&b| b == b'\n');
        let (read, done) = match end {
            Some(end) => (end + 1, true),
            None => (buffer.len(), buffer.is_empty()),
        };
        input.consume(read);
        if done {
            return Ok(());
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
struct Header {
    question: u64,
    candidates: usize,
    best: usize,
    dimension: usize,
}

#[derive(Serialize)]
struct WrittenPoint<'a> {
    id: usize,
    point: &'a [f64],
}

#[derive(Deserialize)]
struct ReadPoint {
    id: usize,
    point: Vec<f64>,
}

/// A ranker at the other end of two streams; see the [module](self).
///
/// ```
/// use nabla_solve::ranking_oracle::{RankingOracle, RankingQuestion};
/// use nabla_solve::ranking_protocol::ProtocolOracle;
///
/// let (answers, mut questions) = ("2 1\n".as_bytes(), Vec::new());
/// let mut oracle = ProtocolOracle::new(answers, &mut questions);
/// let question = RankingQuestion::new(0, 2, 1, vec![3.0, -1.0, 2.0])?;
/// assert_eq!(oracle.rank(&question)?.best(), [1, 0]);
/// assert!(String::from_utf8(questions)?.starts_with("nabla-ranking 1\n"));
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug)]
pub struct ProtocolOracle<R, W> {
    input: R,
    output: W,
    attempts: usize,
    shuffle: Option<u64>,
    greeted: bool,
}

impl<R: BufRead, W: Write> ProtocolOracle<R, W> {
    /// Reads answers from `input` and writes questions to `output`. Nothing is written before the
    /// first question.
    pub fn new(input: R, output: W) -> Self {
        Self {
            input,
            output,
            attempts: 3,
            shuffle: None,
            greeted: false,
        }
    }

    /// The number of lines that are read as an answer before the question is given up. Default 3, and at
    /// least 1.
    pub fn with_attempts(mut self, attempts: usize) -> Self {
        self.attempts = attempts.max(1);
        self
    }

    /// Gives ids to the points of each question in an order that depends only on `seed` and on the
    /// question's number, so that the ids do not reveal how the points were made.
    pub fn shuffled(mut self, seed: u64) -> Self {
        self.shuffle = Some(seed);
        self
    }

    fn ask(&mut self, question: &RankingQuestion, order: &[usize]) -> io::Result<()> {
        if !self.greeted {
            writeln!(self.output, "{FIRST_LINE}")?;
            self.greeted = true;
        }
        let mut write = |message: String| writeln!(self.output, "{message}");
        write(serde_json::to_string(&Header {
            question: question.number(),
            candidates: question.candidates(),
            best: question.best(),
            dimension: question.dimension(),
        })?)?;
        for (i, &candidate) in order.iter().enumerate() {
            write(serde_json::to_string(&WrittenPoint {
                id: i + 1,
                point: question.point(candidate),
            })?)?;
        }
        self.output.flush()
    }

    /// The next non-empty line, as an answer; `None` at the end of the input.
    fn answer(
        &mut self,
        question: &RankingQuestion,
    ) -> io::Result<Option<Result<Answer, AnswerError>>> {
        loop {
            let line = match read_line(&mut self.input, LONGEST_ANSWER)? {
                None => return Ok(None),
                Some(Err(())) => {
                    skip_line(&mut self.input)?;
                    return Ok(Some(Err(AnswerError::TooLong)));
                }
                Some(Ok(line)) => line,
            };
            let Ok(line) = String::from_utf8(line) else {
                return Ok(Some(Err(AnswerError::NotText)));
            };
            if !line.trim().is_empty() {
                let parsed = parse_answer(&line, question.candidates(), question.best());
                return Ok(Some(parsed));
            }
        }
    }
}

impl<R: BufRead, W: Write> RankingOracle for ProtocolOracle<R, W> {
    type Error = ProtocolError;

    fn rank(&mut self, question: &RankingQuestion) -> Result<Ranking, ProtocolError> {
        let mut order: Vec<usize> = (0..question.candidates()).collect();
        if let Some(seed) = self.shuffle {
            order.shuffle(&mut SeededNoise::new(seed, question.number()));
        }
        self.ask(question, &order)?;
        let number = question.number();
        let mut attempt = 1;
        loop {
            let error = match self.answer(question)? {
                None => return Err(ProtocolError::End { question: number }),
                Some(Ok(Answer::Quit)) => return Err(ProtocolError::Quit),
                Some(Ok(Answer::Best(named))) => {
                    let best = named.into_iter().map(|i| order[i]).collect();
                    return Ok(Ranking::of_checked(question.candidates(), best));
                }
                Some(Err(error)) => error,
            };
            writeln!(self.output, "error: {error}")?;
            self.output.flush()?;
            if attempt == self.attempts {
                return Err(ProtocolError::Answer {
                    question: number,
                    attempts: attempt,
                    error,
                });
            }
            attempt += 1;
        }
    }
}

/// The other side: answers the questions of `input` on `output` by a function, the lowest first, until the
/// input ends. Returns the number of answers.
///
/// ```
/// use nabla_solve::ranking_protocol::serve;
/// let questions = concat!(
///     "nabla-ranking 1\n",
///     "{\"question\":0,\"candidates\":2,\"best\":1,\"dimension\":1}\n",
///     "{\"id\":1,\"point\":[2.0]}\n",
///     "{\"id\":2,\"point\":[-1.0]}\n",
/// );
/// let mut answers = Vec::new();
/// assert_eq!(serve(questions.as_bytes(), &mut answers, |x| x[0] * x[0])?, 1);
/// assert_eq!(answers, b"2\n");
/// # Ok::<(), nabla_solve::ranking_protocol::ProtocolError>(())
/// ```
///
/// # Errors
/// If a line does not follow the protocol, an answer is refused, or a stream fails.
pub fn serve(
    mut input: impl BufRead,
    mut output: impl Write,
    mut value: impl FnMut(&[f64]) -> f64,
) -> Result<u64, ProtocolError> {
    let Some(first) = message(&mut input, "first line")? else {
        return Ok(0);
    };
    if first.trim_end() != FIRST_LINE {
        return Err(unexpected(&first, "first line"));
    }
    let mut answers = 0;
    while let Some(line) = message(&mut input, "question")? {
        if let Some(reason) = line.strip_prefix("error:") {
            return Err(ProtocolError::Refused(reason.trim().to_owned()));
        }
        let header: Header =
            serde_json::from_str(&line).map_err(|_| unexpected(&line, "question"))?;
        let mut values = Vec::new();
        for id in 1..=header.candidates {
            let Some(line) = message(&mut input, "candidate")? else {
                return Err(ProtocolError::End {
                    question: header.question,
                });
            };
            let candidate: ReadPoint = serde_json::from_str(&line)
                .ok()
                .filter(|c: &ReadPoint| c.id == id && c.point.len() == header.dimension)
                .ok_or_else(|| unexpected(&line, "candidate of this question"))?;
            values.push(value(&candidate.point));
        }
        let ranking =
            Ranking::of_values(&values, header.best).map_err(|_| unexpected(&line, "question"))?;
        let ids: Vec<String> = ranking.best().iter().map(|i| (i + 1).to_string()).collect();
        writeln!(output, "{}", ids.join(" "))?;
        output.flush()?;
        answers += 1;
    }
    Ok(answers)
}

fn unexpected(line: &str, expected: &'static str) -> ProtocolError {
    ProtocolError::Message {
        line: beginning(line),
        expected,
    }
}

/// A line as text; `None` at the end of the input.
fn message(
    input: &mut impl BufRead,
    expected: &'static str,
) -> Result<Option<String>, ProtocolError> {
    match read_line(input, LONGEST_POINT)? {
        None => Ok(None),
        Some(Err(())) => Err(unexpected("a line without end", expected)),
        Some(Ok(line)) => match String::from_utf8(line) {
            Ok(line) => Ok(Some(line)),
            Err(error) => Err(unexpected(
                &String::from_utf8_lossy(error.as_bytes()),
                expected,
            )),
        },
    }
}

#[cfg(test)]
mod tests;
