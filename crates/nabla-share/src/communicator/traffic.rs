//! Tags of messages, and the count of their bytes.

use std::fmt;

/// What a message is part of.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Kind {
    /// A message between two ranks.
    Message,
    /// A sum over all ranks.
    Reduce,
    /// A gathering at all ranks.
    Gather,
    /// A broadcast.
    Broadcast,
    /// A barrier; its messages are empty.
    Barrier,
}

impl Kind {
    /// All kinds.
    pub const ALL: [Self; 5] = [
        Self::Message,
        Self::Reduce,
        Self::Gather,
        Self::Broadcast,
        Self::Barrier,
    ];
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Message => "message",
            Self::Reduce => "part of a sum",
            Self::Gather => "part of a gathering",
            Self::Broadcast => "broadcast",
            Self::Barrier => "sign at a barrier",
        })
    }
}

/// Tells the messages between two ranks apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Tag {
    kind: Kind,
    number: u16,
}

impl Tag {
    /// The tag of messages between two ranks with this number, which the method chooses.
    pub const fn new(number: u16) -> Self {
        Self {
            kind: Kind::Message,
            number,
        }
    }

    /// The tag of the messages of an operation of all ranks. Ranks call these operations in the same order, so they
    /// need no number.
    pub(super) const fn of(kind: Kind) -> Self {
        Self { kind, number: 0 }
    }

    /// What messages with this tag are part of.
    pub const fn kind(self) -> Kind {
        self.kind
    }

    /// A number that no other tag has, for communicators whose tags are numbers; below 2¹⁹.
    pub const fn code(self) -> u32 {
        (self.kind as u32) << 16 | self.number as u32
    }

    /// The tag that has this [`code`](Self::code).
    pub fn from_code(code: u32) -> Option<Self> {
        let kind = *Kind::ALL.get(code as usize >> 16)?;
        let number = (code & 0xffff) as u16;
        Some(Self { kind, number })
    }
}

/// A number of messages and their bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Volume {
    /// The number of messages.
    pub messages: u64,
    /// Their bytes, without what the transport adds.
    pub bytes: u64,
}

impl Volume {
    fn add(&mut self, bytes: usize) {
        self.messages += 1;
        self.bytes += bytes as u64;
    }
}

/// What one rank has sent and received, by kind.
///
/// A message counts as received when it is asked for, not when it arrives.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Traffic {
    sent: [Volume; Kind::ALL.len()],
    received: [Volume; Kind::ALL.len()],
}

impl Traffic {
    /// What has been sent of a kind.
    pub fn sent(&self, kind: Kind) -> Volume {
        self.sent[kind as usize]
    }

    /// What has been received of a kind.
    pub fn received(&self, kind: Kind) -> Volume {
        self.received[kind as usize]
    }

    /// Everything that has been sent.
    pub fn all_sent(&self) -> Volume {
        total(&self.sent)
    }

    /// Everything that has been received.
    pub fn all_received(&self) -> Volume {
        total(&self.received)
    }

    /// Counts a message that this rank sends; for your own communicators.
    pub fn count_sent(&mut self, tag: Tag, bytes: usize) {
        self.sent[tag.kind() as usize].add(bytes);
    }

    /// Counts a message that this rank receives; for your own communicators.
    pub fn count_received(&mut self, tag: Tag, bytes: usize) {
        self.received[tag.kind() as usize].add(bytes);
    }
}

fn total(volumes: &[Volume]) -> Volume {
    Volume {
        messages: volumes.iter().map(|volume| volume.messages).sum(),
        bytes: volumes.iter().map(|volume| volume.bytes).sum(),
    }
}
