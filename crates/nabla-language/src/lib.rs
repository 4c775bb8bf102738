//! Language models, read from the files in which they are published.
//!
//! * [`gguf`]: the container of llama.cpp, with [`gguf_blocks`], its quantised numbers;
//! * [`llama`]: decoders of the Llama family, such as SmolLM2;
//! * [`bert`]: encoders of the BERT family, such as MiniLM;
//! * [`checks`]: what every model is checked for;
//! * [`text_tokenizer`]: texts as numbers;
//! * [`language_model`]: a model with its tokenizer, opened from a file or a folder.

pub mod bert;
pub mod checks;
pub mod gguf;
pub mod gguf_blocks;
pub mod language_model;
pub mod llama;
pub mod text_tokenizer;
