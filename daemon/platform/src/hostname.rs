//! What this machine is called.

use std::ffi::CStr;

/// The host name as the kernel has it (`gethostname(2)`); `None` when there is none that is text.
#[expect(unsafe_code, reason = "the standard library has no call for it")]
pub fn hostname() -> Option<String> {
    let mut buffer = [0_u8; 256];
    // SAFETY: the kernel writes at most this many bytes into a buffer that has one more.
    let done = unsafe { libc::gethostname(buffer.as_mut_ptr().cast(), buffer.len() - 1) };
    if done != 0 {
        return None;
    }
    let name = CStr::from_bytes_until_nul(&buffer).ok()?.to_str().ok()?;
    (!name.is_empty()).then(|| name.to_owned())
}
