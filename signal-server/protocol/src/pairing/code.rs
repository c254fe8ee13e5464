//! The code itself: six words, and the server where the inviter is found.

use std::fmt;
use std::str::FromStr;

use argon2::{Algorithm, Argon2, Block, Params, Version};
use subtle::ConstantTimeEq;
use zeroize::{Zeroize, Zeroizing};

use crate::Identity;

/// A code has so many words, of eleven bits each.
pub const CODE_WORDS: usize = 6;
/// A longer text is no code, in bytes.
pub const MAX_CODE: usize = 512;
/// The letters by which each word differs from all others.
const DISTINCT: usize = 4;
/// More words than this were not meant to be one code.
const MANY: usize = 2 * CODE_WORDS;
/// The server of a code is as long as a URL with a DNS name may be, in bytes.
const MAX_SERVER: usize = 300;

/// What Argon2id (RFC 9106) costs: 64 MiB, three passes, one lane.
const MEMORY_KIB: u32 = 64 * 1024;
const PASSES: u32 = 3;
const SALT: &[u8] = b"punch invite v1";

/// The 2,048 words, sorted; no two begin with the same four letters.
pub fn word_list() -> impl Iterator<Item = &'static str> + Clone {
    include_str!("words.txt").lines()
}

/// The six words of a code: a secret, wiped when dropped and never printed but by [`Words::text`].
#[derive(Clone)]
pub struct Words(Zeroizing<[u16; CODE_WORDS]>);

impl Words {
    /// The words that 66 of these 72 random bits choose.
    pub fn choose(random: &[u8; 9]) -> Self {
        let mut bits = random
            .iter()
            .fold(0_u128, |bits, byte| bits << 8 | u128::from(*byte));
        let mut words = Zeroizing::new([0; CODE_WORDS]);
        for word in words.iter_mut() {
            *word = (bits & 0x7ff) as u16;
            bits >>= 11;
        }
        bits.zeroize();
        Self(words)
    }

    /// The words with hyphens between them.
    pub fn text(&self) -> Zeroizing<String> {
        let mut text = Zeroizing::new(String::with_capacity(CODE_WORDS * 9));
        for (place, index) in self.0.iter().enumerate() {
            if place > 0 {
                text.push('-');
            }
            text.push_str(word_list().nth(usize::from(*index)).unwrap_or_default());
        }
        text
    }

    /// Whether both are the same, found out in a time that does not depend on where they differ.
    pub fn is(&self, other: &Self) -> bool {
        self.0.ct_eq(&*other.0).into()
    }

    /// The two temporary identities, by Argon2id: a tenth of a second and 64 MiB, which is the price of each guess. `None` when there is
    /// no memory for it.
    pub fn stretch(&self) -> Option<TemporaryPair> {
        let params = Params::new(MEMORY_KIB, PASSES, 1, Some(64)).ok()?;
        let count = params.block_count();
        let mut blocks = Vec::new();
        blocks.try_reserve_exact(count).ok()?;
        blocks.resize(count, Block::default());
        let mut seeds = Zeroizing::new([0; 64]);
        let argon = Argon2::new(Algorithm::Argon2id, Version::V0x13, params);
        let text = self.text();
        let done =
            argon.hash_password_into_with_memory(text.as_bytes(), SALT, &mut *seeds, &mut blocks);
        // What is left in the memory would spare a guesser the work.
        for block in &mut blocks {
            block.as_mut().zeroize();
        }
        done.ok()?;
        let (inviter, newcomer) = seeds.split_at(32);
        let identity = |seed: &[u8]| Some(Identity::from_seed(seed.try_into().ok()?));
        Some(TemporaryPair {
            inviter: identity(inviter)?,
            newcomer: identity(newcomer)?,
        })
    }
}

impl fmt::Debug for Words {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Words(…)")
    }
}

/// The identities of an invitation. Both machines know both secrets, so neither proves anything but knowledge of the code.
#[derive(Clone)]
pub struct TemporaryPair {
    /// The one that the inviter is found by.
    pub inviter: Identity,
    /// The one that the newcomer comes by.
    pub newcomer: Identity,
}

/// What a user tells the other: the words, and a server where the inviter is found, if it uses one.
#[derive(Debug, Clone)]
pub struct Code {
    /// The secret part.
    pub words: Words,
    /// The URL of a signalling server. Nobody has checked that it is one.
    pub server: Option<String>,
}

impl Code {
    /// The code as it is told: `word-word-word-word-word-word@signal.example.org`. What a server's URL says by default is left out.
    pub fn text(&self) -> Zeroizing<String> {
        let mut text = self.words.text();
        if let Some(server) = &self.server {
            text.push('@');
            text.push_str(brief(server));
        }
        text
    }
}

/// A server's URL without what it has by default: `wss://` with no port or 443, and a path `/`.
fn brief(server: &str) -> &str {
    let server = server.strip_suffix('/').unwrap_or(server);
    match server.strip_prefix("wss://") {
        Some(host) => {
            let bare = host.strip_suffix(":443").unwrap_or(host);
            if bare.contains([':', '/']) {
                server
            } else {
                bare
            }
        }
        None => server,
    }
}

/// Why a text is not a code.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum CodeError {
    /// A word that is not in the list.
    #[error(
        "word {place} of the code, `{found}`, is none of the words that codes are made of: did you mean {nearest}?"
    )]
    Misspelt {
        /// The place of the word, counted from 1.
        place: usize,
        /// The word as it was written.
        found: String,
        /// The word of the list that is most like it.
        nearest: &'static str,
    },
    /// Too few words.
    #[error("a code has {CODE_WORDS} words, this one has {found}: {} missing", are(CODE_WORDS - found))]
    Missing {
        /// How many there are.
        found: usize,
    },
    /// Too many words.
    #[error("a code has {CODE_WORDS} words, this one has {found}: {} too many", are(found - CODE_WORDS))]
    Extra {
        /// How many there are.
        found: usize,
    },
    /// The code of a version that is not known here.
    #[error(
        "this code is of another version of Punch, which this one does not know: use the same version on both machines"
    )]
    Version,
    /// What stands behind the `@` is no server.
    #[error(
        "what stands behind the @ of the code is no server: HOST or ws://HOST:PORT is, as `punchctl invite` has printed it"
    )]
    Server,
    /// Longer than any code.
    #[error("this is too long for a code, which has {CODE_WORDS} words")]
    TooLong,
}

fn are(count: usize) -> String {
    if count == 1 {
        "1 is".to_owned()
    } else {
        format!("{count} are")
    }
}

impl FromStr for Code {
    type Err = CodeError;

    /// Reads a code in any case, with hyphens or spaces between the words, of which the first four letters are enough.
    fn from_str(text: &str) -> Result<Self, CodeError> {
        if text.len() > MAX_CODE {
            return Err(CodeError::TooLong);
        }
        let (words, server) = match text.split_once('@') {
            Some((words, server)) => (words, Some(read_server(server.trim())?)),
            None => (text, None),
        };
        // A later version says so by a first word with a digit, such as `punch2`.
        let lower = Zeroizing::new(words.to_lowercase());
        let between = |c: char| c.is_whitespace() || matches!(c, '-' | '\u{2010}'..='\u{2015}');
        let found = lower.split(between).filter(|word| !word.is_empty());
        if found
            .clone()
            .next()
            .is_some_and(|first| first.contains(|c: char| c.is_ascii_digit()))
        {
            return Err(CodeError::Version);
        }
        match found.clone().count() {
            count if count > MANY => return Err(CodeError::TooLong),
            count if count > CODE_WORDS => return Err(CodeError::Extra { found: count }),
            count if count < CODE_WORDS => return Err(CodeError::Missing { found: count }),
            _ => {}
        }
        let mut words = Zeroizing::new([0; CODE_WORDS]);
        for (place, (word, index)) in found.zip(words.iter_mut()).enumerate() {
            *index = find(word).ok_or_else(|| CodeError::Misspelt {
                place: place + 1,
                found: shown(word),
                nearest: nearest(word),
            })?;
        }
        Ok(Self {
            words: Words(words),
            server,
        })
    }
}

/// The number of a word that is written in full, or by its first letters, four at least.
fn find(written: &str) -> Option<u16> {
    if written.len() < DISTINCT {
        return None;
    }
    let index = word_list().position(|word| word.starts_with(written))?;
    u16::try_from(index).ok()
}

/// What was written in the place of a word, for people: a code that somebody has sent may have control characters of terminals in it.
fn shown(written: &str) -> String {
    let plain = |c: char| if c.is_alphanumeric() { c } else { '?' };
    written.chars().take(32).map(plain).collect()
}

/// The word of the list that is most like the one written.
fn nearest(written: &str) -> &'static str {
    let written: String = written.chars().take(32).collect();
    let like = |word: &&str| strsim::damerau_levenshtein(word, &written);
    word_list().min_by_key(like).unwrap_or_default()
}

fn read_server(text: &str) -> Result<String, CodeError> {
    let is_graphic = text
        .bytes()
        .all(|byte| byte.is_ascii_graphic() && byte != b'@');
    if text.is_empty() || text.len() > MAX_SERVER || !is_graphic {
        return Err(CodeError::Server);
    }
    Ok(match text.contains("://") {
        true => text.to_owned(),
        false => format!("wss://{text}"),
    })
}
