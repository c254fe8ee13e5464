//! How checks name the agent that they are for.

/// Length of a USERNAME: two fragments in hexadecimal, and a colon.
pub(crate) const USERNAME_LENGTH: usize = 33;

/// The USERNAME of checks from the agent with one fragment to that with another (RFC 8445 §7.2.2: `receiver:sender`).
pub(crate) fn username(receiver: &[u8; 8], sender: &[u8; 8]) -> [u8; USERNAME_LENGTH] {
    let mut name = [b':'; USERNAME_LENGTH];
    write_hex(receiver, &mut name[..16]);
    write_hex(sender, &mut name[17..]);
    name
}

/// The fragment of the agent that a check with this USERNAME is for; `None` if no agent of Punch has such a name.
///
/// Whoever holds many agents finds the one with this [`crate::Agent::fragment`] and then asks it with
/// [`crate::Agent::is_addressed`], which also looks at the sender's half.
pub fn receiver_of(username: &[u8]) -> Option<[u8; 8]> {
    if username.len() != USERNAME_LENGTH || username[16] != b':' {
        return None;
    }
    let mut fragment = [0; 8];
    for (byte, digits) in fragment.iter_mut().zip(username.chunks_exact(2)) {
        *byte = digit(digits[0])? << 4 | digit(digits[1])?;
    }
    Some(fragment)
}

fn write_hex(bytes: &[u8; 8], out: &mut [u8]) {
    const DIGITS: &[u8; 16] = b"0123456789abcdef";
    for (byte, pair) in bytes.iter().zip(out.chunks_exact_mut(2)) {
        pair[0] = DIGITS[usize::from(byte >> 4)];
        pair[1] = DIGITS[usize::from(byte & 15)];
    }
}

/// The value of a hexadecimal digit; capital letters are none, since names are compared byte by byte.
fn digit(character: u8) -> Option<u8> {
    match character {
        b'0'..=b'9' => Some(character - b'0'),
        b'a'..=b'f' => Some(character - b'a' + 10),
        _ => None,
    }
}
