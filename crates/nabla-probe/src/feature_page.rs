//! A page that shows for each feature of a language model the texts that light it up: one HTML file that needs nothing else.

use maud::{DOCTYPE, Markup, PreEscaped, html};
use nabla_language::text_tokenizer::{TextTokenizer, TokenizerError};

use crate::language_features::{Feature, Passages};

/// What the page says above the features.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct PageHead {
    /// Its title.
    pub title: String,
    /// Names and values of what was measured.
    pub facts: Vec<(String, String)>,
}

/// A feature as it is shown.
#[derive(Clone, Debug, PartialEq)]
pub struct FeatureCard {
    /// Its number.
    pub latent: usize,
    /// The share of pieces at which it is active.
    pub density: f64,
    /// The strongest places, each in its text.
    pub excerpts: Vec<Excerpt>,
    /// The pieces that it makes likelier, the most so first; empty if that isn't known.
    pub promoted: Vec<String>,
}

/// A place in its text.
#[derive(Clone, Debug, PartialEq)]
pub struct Excerpt {
    /// What stands before it.
    pub before: String,
    /// The piece at which the feature is active.
    pub piece: String,
    /// What follows.
    pub after: String,
    /// How active it is.
    pub activity: f64,
}

impl FeatureCard {
    /// The card of a feature.
    ///
    /// - `around`: pieces to show on both sides of a place
    ///
    /// # Errors
    /// If a piece cannot be written out.
    pub fn of(
        feature: &Feature,
        passages: &[Passages],
        tokenizer: &TextTokenizer,
        around: usize,
        promoted: Vec<String>,
    ) -> Result<Self, TokenizerError> {
        let mut excerpts = Vec::new();
        for lit in &feature.strongest {
            let Some(passage) = passages.get(lit.passage) else {
                continue;
            };
            // What is shown stays within its passage.
            let (pieces, row) = passage.around(lit.row);
            let Some(&piece) = pieces.get(row) else {
                continue;
            };
            let begin = row.saturating_sub(around);
            let end = pieces.len().min(row + 1 + around);
            // What stands between two pieces is only told by both together.
            let text = |end: usize| tokenizer.decode(&pieces[begin..end]);
            let (before, lit_too, whole) = (text(row)?, text(row + 1)?, text(end)?);
            let apart =
                |longer: &str, shorter: &str, alone: &[u32]| match longer.strip_prefix(shorter) {
                    Some(rest) => Ok(rest.to_owned()),
                    None => tokenizer.decode(alone),
                };
            excerpts.push(Excerpt {
                piece: apart(&lit_too, &before, &[piece])?,
                after: apart(&whole, &lit_too, &pieces[row + 1..end])?,
                before,
                activity: lit.activity,
            });
        }
        Ok(Self {
            latent: feature.latent,
            density: feature.density,
            excerpts,
            promoted,
        })
    }
}

const STYLE: &str = "
:root { color-scheme: light dark; --paper: #fdfdfc; --ink: #1d2125; --dim: #5d666f; --line: #d8dcdf; --lit: #e0861a; }
@media (prefers-color-scheme: dark) { :root { --paper: #15181b; --ink: #e4e7ea; --dim: #9aa4ad; --line: #343a40; } }
* { box-sizing: border-box; }
body { margin: 0 auto; max-width: 64rem; padding: 1.5rem 1.25rem 5rem; background: var(--paper); color: var(--ink);
  font: 1rem/1.55 system-ui, sans-serif; }
h1 { font-size: 1.5rem; line-height: 1.25; text-wrap: balance; } .dim { color: var(--dim); font-size: 0.875rem; }
dl { display: grid; grid-template-columns: max-content 1fr; gap: 0.2rem 1rem; font-size: 0.9375rem; }
dt { color: var(--dim); } dd { margin: 0; font-variant-numeric: tabular-nums; }
.tools { position: sticky; top: 0; padding: 0.75rem 0; background: var(--paper); border-bottom: 1px solid var(--line);
  display: flex; flex-wrap: wrap; gap: 0.75rem; align-items: center; }
input, select { font: inherit; color: inherit; background: transparent; border: 1px solid var(--line);
  border-radius: 0.3rem; padding: 0.3rem 0.6rem; } input { flex: 1 1 16rem; }
section { border-bottom: 1px solid var(--line); padding: 0.9rem 0; }
h2 { font-size: 1.0625rem; margin: 0 0 0.35rem; } h2 span { font-weight: 400; }
ol { margin: 0; padding: 0; list-style: none; }
li { display: grid; grid-template-columns: 3.5rem 1fr; gap: 0.75rem; align-items: baseline; }
li p { margin: 0.1rem 0; overflow-wrap: anywhere; } .n { text-align: right; font-variant-numeric: tabular-nums; }
mark { color: inherit; border-radius: 0.15rem; padding: 0 0.1rem; white-space: pre-wrap; }
code { font-size: 0.875rem; border: 1px solid var(--line); border-radius: 0.25rem; padding: 0 0.3rem; white-space: pre; }
";

/// Hides features without the words that are looked for, and sorts.
const SCRIPT: &str = "
const list = document.getElementById('features'), cards = [...list.children];
const find = document.getElementById('find'), sort = document.getElementById('sort');
const count = document.getElementById('count');
function show() {
  const words = find.value.toLowerCase().split(/\\s+/).filter(Boolean);
  let shown = 0;
  for (const card of cards) {
    const text = card.textContent.toLowerCase();
    card.hidden = !words.every(word => text.includes(word));
    shown += card.hidden ? 0 : 1;
  }
  count.textContent = shown + ' of ' + cards.length;
}
sort.addEventListener('change', () => {
  const key = sort.value, sign = key === 'latent' ? 1 : -1;
  cards.sort((a, b) => sign * (a.dataset[key] - b.dataset[key]));
  list.append(...cards);
});
find.addEventListener('input', show);
show();
";

/// The page.
pub fn feature_page(head: &PageHead, cards: &[FeatureCard]) -> String {
    let page = html! {
        (DOCTYPE)
        html lang="en" {
            head {
                meta charset="utf-8";
                meta name="viewport" content="width=device-width, initial-scale=1";
                title { (head.title) }
                style { (PreEscaped(STYLE)) }
            }
            body {
                h1 { (head.title) }
                dl {
                    @for (name, value) in &head.facts { dt { (name) } dd { (value) } }
                }
                div class="tools" {
                    input id="find" type="search" placeholder="words to look for" aria-label="Words to look for";
                    select id="sort" aria-label="Order" {
                        option value="activity" { "strongest first" }
                        option value="density" { "most frequent first" }
                        option value="latent" { "by number" }
                    }
                    span id="count" class="dim" { (cards.len()) }
                }
                main id="features" {
                    @for card in cards { (shown(card)) }
                }
                script { (PreEscaped(SCRIPT)) }
            }
        }
    };
    page.into_string()
}

fn shown(card: &FeatureCard) -> Markup {
    let strongest = card.excerpts.iter().map(|e| e.activity);
    let strongest = strongest.fold(0.0, f64::max);
    html! {
        section data-latent=(card.latent) data-density=(card.density) data-activity=(strongest) {
            h2 {
                "feature " (card.latent) " "
                span class="dim" { (format!("active at {:.3} % of pieces", 100.0 * card.density)) }
            }
            @if !card.promoted.is_empty() {
                p class="dim" {
                    "makes likelier: "
                    @for piece in &card.promoted { code { (visible(piece)) } " " }
                }
            }
            ol {
                @for excerpt in &card.excerpts {
                    li {
                        span class="dim n" { (format!("{:.2}", excerpt.activity)) }
                        p {
                            (excerpt.before)
                            mark style=(lit(excerpt.activity / strongest)) { (visible(&excerpt.piece)) }
                            (excerpt.after)
                        }
                    }
                }
            }
        }
    }
}

/// A colour by the share of the strongest activity.
fn lit(share: f64) -> String {
    let percent = (25.0 + 55.0 * share.clamp(0.0, 1.0)).round();
    format!("background: color-mix(in srgb, var(--lit) {percent}%, transparent)")
}

/// A piece whose line breaks can be seen.
fn visible(piece: &str) -> String {
    piece.replace('\n', "⏎")
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use nabla_language::gguf::Gguf;

    use super::*;
    use crate::language_features::Lit;

    #[test]
    fn a_card_shows_a_place_in_its_text() {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../nabla-language");
        let gguf = Gguf::open(&folder.join("tests/reference/tiny_llama.gguf")).unwrap();
        let tokenizer = TextTokenizer::of_gguf(&gguf).unwrap();
        let ids = tokenizer.encode("abc ab12").unwrap();
        let feature = Feature {
            latent: 7,
            density: 0.25,
            strongest: vec![Lit {
                passage: 0,
                row: 3,
                activity: 1.5,
            }],
        };
        let passages = [Passages::Text(ids)];
        let card = FeatureCard::of(&feature, &passages, &tokenizer, 2, Vec::new()).unwrap();
        let excerpt = &card.excerpts[0];
        assert_eq!(
            [&*excerpt.before, &excerpt.piece, &excerpt.after],
            ["abc ", "ab", "12"]
        );
    }

    #[test]
    fn texts_are_escaped_and_nothing_is_loaded() {
        let card = FeatureCard {
            latent: 3,
            density: 0.001,
            excerpts: vec![Excerpt {
                before: "<script>alert(1)</script> & ".to_owned(),
                piece: "\n".to_owned(),
                after: "\"quoted\"".to_owned(),
                activity: 2.0,
            }],
            promoted: vec![" sea".to_owned(), "<b>".to_owned()],
        };
        let head = PageHead {
            title: "A & B".to_owned(),
            facts: vec![("loss".to_owned(), "1 < 2".to_owned())],
        };
        let page = feature_page(&head, &[card]);
        for part in [
            "<title>A &amp; B</title>",
            "&lt;script&gt;alert(1)&lt;/script&gt; &amp; ",
            "⏎</mark>",
            "1 &lt; 2",
            "<code> sea</code>",
            "<code>&lt;b&gt;</code>",
            "active at 0.100 % of pieces",
        ] {
            assert!(page.contains(part), "{part}: {page}");
        }
        for outside in ["http", "src=", "<link", "@import", "url("] {
            assert!(!page.contains(outside), "{outside}");
        }
    }
}
