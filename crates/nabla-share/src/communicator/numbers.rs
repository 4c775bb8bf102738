//! Numbers as bytes: little-endian, whatever the machine.

use std::fmt::Debug;
use std::ops::Add;

/// A floating-point number that can be sent and combined: `f32` or `f64`.
pub trait Number:
    Copy + Add<Output = Self> + PartialEq + Debug + Default + Send + Sync + sealed::Sealed + 'static
{
    /// The number of bytes.
    const BYTES: usize;

    /// Rounds to this type.
    fn from_f64(value: f64) -> Self;

    /// The same number in double precision.
    fn to_f64(self) -> f64;

    /// Appends the bytes.
    fn write(self, bytes: &mut Vec<u8>);

    /// Reads the first [`BYTES`](Self::BYTES) bytes; missing ones are 0.
    fn read(bytes: &[u8]) -> Self;
}

mod sealed {
    pub trait Sealed {}
    impl Sealed for f32 {}
    impl Sealed for f64 {}
}

macro_rules! number {
    ($number:ty) => {
        impl Number for $number {
            const BYTES: usize = size_of::<Self>();

            fn from_f64(value: f64) -> Self {
                value as Self
            }

            fn to_f64(self) -> f64 {
                f64::from(self)
            }

            fn write(self, bytes: &mut Vec<u8>) {
                bytes.extend_from_slice(&self.to_le_bytes());
            }

            fn read(bytes: &[u8]) -> Self {
                let mut own = [0; size_of::<Self>()];
                own.iter_mut().zip(bytes).for_each(|(to, from)| *to = *from);
                Self::from_le_bytes(own)
            }
        }
    };
}

number!(f32);
number!(f64);

/// The bytes of numbers, in order.
///
/// ```
/// use nabla_share::communicator::numbers::{from_bytes, to_bytes};
///
/// assert_eq!(to_bytes(&[1.0_f32]), [0, 0, 0x80, 0x3f]);
/// assert_eq!(from_bytes::<f64>(&to_bytes(&[0.1, -2.5])), [0.1, -2.5]);
/// ```
pub fn to_bytes<T: Number>(values: &[T]) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(values.len() * T::BYTES);
    values.iter().for_each(|value| value.write(&mut bytes));
    bytes
}

/// The numbers of bytes; the rest after the last whole number is left out.
pub fn from_bytes<T: Number>(bytes: &[u8]) -> Vec<T> {
    bytes.chunks_exact(T::BYTES).map(T::read).collect()
}
