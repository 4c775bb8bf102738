//! A prompt as parts that the text encoder takes, of 75 tokens each.
//!
//! A part that is full continues in the next one. If a comma is among its last 20 tokens, what follows the
//! comma goes there as a whole, so that no phrase is torn apart. The words of
//! [textual inversions](super::textual_inversion) stand for as many tokens as they have vectors and are never
//! divided. `BREAK` begins a new part.
//!
//! These are the rules of AUTOMATIC1111's `stable-diffusion-webui`, with its default settings.

use super::clip_tokenizer::{ClipTokenizer, ClipTokenizerError};
use super::prompt::{Prompt, PromptPiece};

/// How many tokens at the end of a part are searched for a comma.
const BACKTRACK: usize = 20;

/// A part of a prompt.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct PromptPart {
    /// Start, tokens, end and padding.
    pub(super) ids: Vec<u32>,
    /// The weight of each id; 1 for start, end and padding.
    pub(super) weights: Vec<f32>,
    /// The ids whose vectors come from elsewhere.
    pub(super) replaced: Vec<Replaced>,
}

/// An id whose vector is that of a textual inversion.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Replaced {
    /// The place in the part.
    pub(super) position: usize,
    /// The number of the word.
    pub(super) word: usize,
    /// Which of its vectors.
    pub(super) row: usize,
}

/// A word that stands for several vectors.
#[derive(Clone, Copy, Debug)]
pub(super) struct Word<'a> {
    /// How it is written; case does not matter.
    pub(super) text: &'a str,
    /// The number of its vectors.
    pub(super) vectors: usize,
}

/// A token of a part.
#[derive(Clone, Copy, Debug)]
struct Token {
    id: u32,
    weight: f32,
    /// The number of the word and of its vector.
    of_word: Option<(usize, usize)>,
}

/// Tokens that stay together, or the end of a part.
enum Item {
    Tokens(Vec<Token>),
    Break,
}

fn items(
    prompt: &Prompt,
    tokenizer: &ClipTokenizer,
    words: &[Word<'_>],
) -> Result<Vec<Item>, ClipTokenizerError> {
    let mut items = Vec::new();
    for piece in prompt.pieces() {
        let (text, weight) = match piece {
            PromptPiece::Text { text, weight } => (text, *weight as f32),
            PromptPiece::Break => {
                items.push(Item::Break);
                continue;
            }
        };
        for span in spans(text, words) {
            match span {
                Span::Text(text) => {
                    let ids = tokenizer.pieces(text)?.into_iter();
                    items.extend(ids.map(|id| {
                        Item::Tokens(vec![Token {
                            id,
                            weight,
                            of_word: None,
                        }])
                    }));
                }
                Span::Word(word) => {
                    let rows = 0..words[word].vectors;
                    let tokens = rows.map(|row| Token {
                        // Its vector is replaced; the mark that ends a text, where the text is pooled, is
                        // another one.
                        id: 0,
                        weight,
                        of_word: Some((word, row)),
                    });
                    items.push(Item::Tokens(tokens.collect()));
                }
            }
        }
    }
    Ok(items)
}

/// The parts of a prompt, at least one.
pub(super) fn prompt_parts(
    prompt: &Prompt,
    tokenizer: &ClipTokenizer,
    words: &[Word<'_>],
) -> Result<Vec<PromptPart>, ClipTokenizerError> {
    let capacity = tokenizer.capacity();
    let comma = tokenizer.comma();
    let mut parts = Vec::new();
    let mut part: Vec<Token> = Vec::new();
    // The number of tokens up to the last comma of the part.
    let mut after_comma = None;
    for item in items(prompt, tokenizer, words)? {
        let tokens = match item {
            Item::Tokens(tokens) => tokens,
            Item::Break => {
                parts.push(framed(tokenizer, &std::mem::take(&mut part)));
                after_comma = None;
                continue;
            }
        };
        let is_comma = matches!(tokens[..], [Token { id, of_word: None, .. }] if Some(id) == comma);
        while part.len() + tokens.len() > capacity && !part.is_empty() {
            let kept = match after_comma {
                Some(kept)
                    if !is_comma && part.len() == capacity && kept + BACKTRACK > capacity =>
                {
                    kept
                }
                _ => part.len(),
            };
            let moved = part.split_off(kept);
            parts.push(framed(tokenizer, &part));
            part = moved;
            after_comma = None;
        }
        part.extend(tokens);
        if is_comma {
            after_comma = Some(part.len());
        }
    }
    if !part.is_empty() || parts.is_empty() {
        parts.push(framed(tokenizer, &part));
    }
    Ok(parts)
}

/// As much of a prompt as fits into one part, and the number of tokens that do not.
pub(super) fn first_part(
    prompt: &Prompt,
    tokenizer: &ClipTokenizer,
    words: &[Word<'_>],
) -> Result<(PromptPart, usize), ClipTokenizerError> {
    let mut all: Vec<Token> = Vec::new();
    for item in items(prompt, tokenizer, words)? {
        if let Item::Tokens(tokens) = item {
            all.extend(tokens);
        }
    }
    let cut = all.len().saturating_sub(tokenizer.capacity());
    all.truncate(tokenizer.capacity());
    Ok((framed(tokenizer, &all), cut))
}

/// A part without tokens.
pub(super) fn empty_part(tokenizer: &ClipTokenizer) -> PromptPart {
    framed(tokenizer, &[])
}

fn framed(tokenizer: &ClipTokenizer, tokens: &[Token]) -> PromptPart {
    let tokens = &tokens[..tokens.len().min(tokenizer.capacity())];
    let ids: Vec<u32> = tokens.iter().map(|token| token.id).collect();
    let ids = tokenizer.framed(&ids);
    let mut weights = vec![1.0; ids.len()];
    let mut replaced = Vec::new();
    // The first place is that of the start.
    for (position, token) in (1..).zip(tokens) {
        weights[position] = token.weight;
        if let Some((word, row)) = token.of_word {
            replaced.push(Replaced {
                position,
                word,
                row,
            });
        }
    }
    PromptPart {
        ids,
        weights,
        replaced,
    }
}

/// A stretch of a text.
#[derive(Debug, PartialEq, Eq)]
enum Span<'a> {
    Text(&'a str),
    /// The number of the word.
    Word(usize),
}

/// Cuts a text at words, of which the longest counts where several begin.
fn spans<'a>(text: &'a str, words: &[Word<'_>]) -> Vec<Span<'a>> {
    let mut spans = Vec::new();
    let (mut start, mut at) = (0, 0);
    while let Some(c) = text[at..].chars().next() {
        let found = words.iter().enumerate().filter_map(|(number, word)| {
            let length = matched(&text[at..], word.text)?;
            let whole = is_boundary(text, at) && is_boundary(text, at + length);
            whole.then_some((length, number))
        });
        match found.max_by_key(|&(length, number)| (length, usize::MAX - number)) {
            Some((length, number)) => {
                spans.extend((start < at).then(|| Span::Text(&text[start..at])));
                spans.push(Span::Word(number));
                at += length;
                start = at;
            }
            None => at += c.len_utf8(),
        }
    }
    spans.extend((start < text.len()).then(|| Span::Text(&text[start..])));
    spans
}

/// Whether no word of letters and digits goes on over the place `at`.
fn is_boundary(text: &str, at: usize) -> bool {
    let inside = |c: char| c.is_alphanumeric() || c == '_';
    !(text[..at].ends_with(inside) && text[at..].starts_with(inside))
}

/// The length of `word` at the start of `text`, in any case.
fn matched(text: &str, word: &str) -> Option<usize> {
    let mut rest = text.chars();
    for c in word.chars() {
        let other = rest.next()?;
        if c != other && !c.to_lowercase().eq(other.to_lowercase()) {
            return None;
        }
    }
    (!word.is_empty()).then(|| text.len() - rest.as_str().len())
}

#[cfg(test)]
mod tests {
    use super::super::clip_tokenizer::ClipFilling;
    use super::*;

    fn tokenizer() -> ClipTokenizer {
        ClipTokenizer::published(ClipFilling::End).unwrap()
    }

    fn parts(text: &str, words: &[Word<'_>]) -> Vec<PromptPart> {
        prompt_parts(&Prompt::parse(text).unwrap(), &tokenizer(), words).unwrap()
    }

    /// The number of tokens of each part.
    fn lengths(text: &str) -> Vec<usize> {
        let end = tokenizer().end();
        let parts = parts(text, &[]).into_iter();
        parts
            .map(|part| part.ids.iter().position(|&id| id == end).unwrap() - 1)
            .collect()
    }

    #[test]
    fn a_plain_text_is_what_the_tokenizer_gives() {
        let tokenizer = tokenizer();
        for text in ["", "a cat", "it's a photo, of 3 cats!"] {
            let [part] = &parts(text, &[])[..] else {
                panic!("{text}");
            };
            assert_eq!(part.ids, tokenizer.encode(text).unwrap().ids);
            assert!(part.weights.iter().all(|&w| w == 1.0) && part.replaced.is_empty());
        }
        let long = "cat ".repeat(80);
        let (part, cut) = first_part(&Prompt::plain(&long), &tokenizer, &[]).unwrap();
        let whole = tokenizer.encode(&long).unwrap();
        assert_eq!((part.ids, cut), (whole.ids, 5));
        assert_eq!(whole.cut, 5);
    }

    #[test]
    fn long_texts_go_on_after_a_comma_that_is_near() {
        let cats = |n: usize| "cat ".repeat(n);
        assert_eq!(lengths(&cats(75)), [75]);
        assert_eq!(lengths(&cats(76)), [75, 1]);
        assert_eq!(lengths(&cats(200)), [75, 75, 50]);
        // A comma at place 56 to 75 is near the end; one before isn't.
        for (before, expected) in [
            (54, [75, 5]),
            (55, [56, 24]),
            (60, [61, 19]),
            (74, [75, 5]),
            (75, [75, 5]),
        ] {
            let text = format!("{}, {}", cats(before), cats(79 - before));
            assert_eq!(lengths(&text), expected, "{before}");
        }
        // The text that ends with the part stays.
        assert_eq!(lengths(&format!("{}, {}", cats(60), cats(14))), [75]);
    }

    #[test]
    fn a_break_ends_a_part() {
        assert_eq!(lengths("a cat BREAK a dog"), [2, 2]);
        assert_eq!(lengths("a BREAK BREAK b"), [1, 0, 1]);
        assert_eq!(lengths("a BREAK"), [1]);
        assert_eq!(lengths("BREAK"), [0]);
        assert_eq!(lengths(&format!("{} BREAK a", "cat ".repeat(75))), [75, 1]);
    }

    #[test]
    fn weights_stand_at_their_tokens() {
        let [part] = &parts("a (red:1.5) [cat]", &[])[..] else {
            panic!("several");
        };
        let expected = [1.0, 1.0, 1.5, (1.0 / 1.1) as f32, 1.0];
        assert_eq!(part.weights[..5], expected);
        assert!(part.weights[5..].iter().all(|&w| w == 1.0));
    }

    #[test]
    fn words_of_several_vectors_are_found_and_never_divided() {
        let words = [
            Word {
                text: "<cat-toy>",
                vectors: 3,
            },
            Word {
                text: "bad-hands",
                vectors: 70,
            },
            Word {
                text: "bad",
                vectors: 1,
            },
        ];
        let found = |text: &'static str| spans(text, &words);
        assert_eq!(
            found("a <CAT-toy>, <cat-toy>x"),
            [
                Span::Text("a "),
                Span::Word(0),
                Span::Text(", "),
                Span::Word(0),
                Span::Text("x")
            ]
        );
        assert_eq!(found("Bad-Hands"), [Span::Word(1)]);
        assert_eq!(found("bad hands"), [Span::Word(2), Span::Text(" hands")]);
        assert_eq!(found("badly a_bad"), [Span::Text("badly a_bad")]);

        let [first, second] = &parts("(<cat-toy>:1.2) one two three bad-hands", &words)[..] else {
            panic!("two");
        };
        let of = |part: &PromptPart| -> Vec<(usize, usize, usize)> {
            let replaced = part.replaced.iter();
            replaced.map(|r| (r.position, r.word, r.row)).collect()
        };
        assert_eq!(of(first), [(1, 0, 0), (2, 0, 1), (3, 0, 2)]);
        assert_eq!(first.weights[..5], [1.0, 1.2, 1.2, 1.2, 1.0]);
        let expected: Vec<_> = (0..70).map(|row| (row + 1, 1, row)).collect();
        assert_eq!(of(second), expected);
        // What moves behind a comma leaves no room for the word either.
        let text = format!("{}, {} bad-hands", "cat ".repeat(60), "cat ".repeat(14));
        let all = parts(&text, &words);
        assert_eq!(all.len(), 3);
        assert_eq!(of(&all[2]), expected);
    }
}
