//! A short name of some bytes, which reveals a damaged checkpoint.

/// Returns the 64-bit FNV-1a hash (Fowler, Noll, Vo) in hexadecimal. It protects against damage, not against
/// malice.
///
/// ```
/// // A test vector by the authors.
/// assert_eq!(nabla_grad::fingerprint::fingerprint(b"foobar"), "85944171f73967e8");
/// ```
pub fn fingerprint(bytes: &[u8]) -> String {
    fingerprint_of(bytes.iter().copied())
}

/// [`fingerprint`] of bytes that are not in one place.
pub fn fingerprint_of(bytes: impl Iterator<Item = u8>) -> String {
    format!("{:016x}", fingerprint_number(bytes))
}

/// [`fingerprint`] as a number.
pub(crate) fn fingerprint_number(bytes: impl Iterator<Item = u8>) -> u64 {
    bytes.fold(0xcbf2_9ce4_8422_2325, |hash, byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3)
    })
}
