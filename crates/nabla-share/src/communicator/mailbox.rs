//! Messages that have arrived before they were asked for, in their order.

use std::collections::VecDeque;

use super::Tag;

/// A message with its sender.
#[derive(Debug)]
pub(super) struct Envelope {
    pub from: usize,
    pub tag: Tag,
    pub bytes: Vec<u8>,
}

/// See the [module documentation](self).
#[derive(Debug, Default)]
pub(super) struct Mailbox {
    waiting: VecDeque<Envelope>,
}

impl Mailbox {
    pub fn put(&mut self, envelope: Envelope) {
        self.waiting.push_back(envelope);
    }

    /// Takes the first message with this tag from one of these ranks.
    pub fn take(&mut self, from: &[usize], tag: Tag) -> Option<(usize, Vec<u8>)> {
        let fits = |envelope: &Envelope| envelope.tag == tag && from.contains(&envelope.from);
        let index = self.waiting.iter().position(fits)?;
        let envelope = self.waiting.remove(index)?;
        Some((envelope.from, envelope.bytes))
    }
}
