//! Bencoding (BEP 3): a reader with bounds, and a writer of the one form in which a value can be written.

/// Lists and dictionaries inside each other; what is deeper is refused. A KRPC message needs four.
const MAX_DEPTH: usize = 8;
/// Values in one message, of all kinds together.
const MAX_VALUES: usize = 512;

/// A value, of which texts stay where they were read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Value<'a> {
    /// A number, as in `i42e`.
    Integer(i64),
    /// A text, as in `4:spam`; any bytes.
    Bytes(&'a [u8]),
    /// Values one after the other, `l…e`.
    List(Vec<Self>),
    /// Keys and values, `d…e`, in the order in which they came, which is not always the right one.
    Dictionary(Vec<(&'a [u8], Self)>),
}

/// Why bytes are no bencoded value.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum BencodeError {
    /// The value ends before it is complete.
    #[error("the value is cut short")]
    Truncated,
    /// A byte stands where none of its kind may.
    #[error("the value is not bencoded")]
    Malformed,
    /// A number does not fit, or is written in another form than the shortest.
    #[error("a number of the value is out of range")]
    Number,
    /// Too many lists inside each other, or too many values.
    #[error("the value is too deep or has too many parts")]
    TooLarge,
    /// Bytes follow the value.
    #[error("bytes follow the value")]
    Trailing,
}

impl<'a> Value<'a> {
    /// Reads one value, which is all there is.
    ///
    /// # Errors
    /// [`BencodeError`] for anything else; never panics.
    pub fn decode(bytes: &'a [u8]) -> Result<Self, BencodeError> {
        let mut reader = Reader {
            rest: bytes,
            values: 0,
        };
        let value = reader.value(0)?;
        match reader.rest {
            [] => Ok(value),
            _ => Err(BencodeError::Trailing),
        }
    }

    /// The value of a key, if this is a dictionary that has it.
    pub fn get(&self, key: &str) -> Option<&Self> {
        let Self::Dictionary(entries) = self else {
            return None;
        };
        let mut entries = entries.iter();
        let found = entries.find(|(name, _)| *name == key.as_bytes());
        found.map(|(_, value)| value)
    }

    /// The bytes of a text.
    pub fn bytes(&self) -> Option<&'a [u8]> {
        match self {
            Self::Bytes(bytes) => Some(bytes),
            _ => None,
        }
    }

    /// The bytes of a text of just this length.
    pub fn array<const N: usize>(&self) -> Option<[u8; N]> {
        self.bytes()?.try_into().ok()
    }

    /// A number.
    pub fn integer(&self) -> Option<i64> {
        match self {
            Self::Integer(number) => Some(*number),
            _ => None,
        }
    }

    /// The values of a list.
    pub fn list(&self) -> Option<&[Self]> {
        match self {
            Self::List(list) => Some(list),
            _ => None,
        }
    }
}

struct Reader<'a> {
    rest: &'a [u8],
    values: usize,
}

impl<'a> Reader<'a> {
    fn peek(&self) -> Result<u8, BencodeError> {
        self.rest.first().copied().ok_or(BencodeError::Truncated)
    }

    fn skip(&mut self) {
        self.rest = self.rest.get(1..).unwrap_or_default();
    }

    fn value(&mut self, depth: usize) -> Result<Value<'a>, BencodeError> {
        self.values += 1;
        if depth > MAX_DEPTH || self.values > MAX_VALUES {
            return Err(BencodeError::TooLarge);
        }
        match self.peek()? {
            b'i' => {
                self.skip();
                Ok(Value::Integer(self.number(b'e')?))
            }
            b'l' => {
                self.skip();
                let mut list = Vec::new();
                while self.peek()? != b'e' {
                    list.push(self.value(depth + 1)?);
                }
                self.skip();
                Ok(Value::List(list))
            }
            b'd' => {
                self.skip();
                let mut entries = Vec::new();
                while self.peek()? != b'e' {
                    let key = self.text()?;
                    entries.push((key, self.value(depth + 1)?));
                }
                self.skip();
                Ok(Value::Dictionary(entries))
            }
            b'0'..=b'9' => Ok(Value::Bytes(self.text()?)),
            _ => Err(BencodeError::Malformed),
        }
    }

    fn text(&mut self) -> Result<&'a [u8], BencodeError> {
        let length = usize::try_from(self.number(b':')?).map_err(|_| BencodeError::Malformed)?;
        let split = self.rest.split_at_checked(length);
        let (text, rest) = split.ok_or(BencodeError::Truncated)?;
        self.rest = rest;
        Ok(text)
    }

    /// A number and what ends it.
    fn number(&mut self, end: u8) -> Result<i64, BencodeError> {
        // The longest is that of i64::MIN.
        let mut window = self.rest.iter().take(21);
        let length = window.position(|byte| !byte.is_ascii_digit() && *byte != b'-');
        let Some(length) = length else {
            return Err(match self.rest.len() {
                0..21 => BencodeError::Truncated,
                _ => BencodeError::Number,
            });
        };
        if self.rest.get(length) != Some(&end) {
            return Err(BencodeError::Malformed);
        }
        let (digits, rest) = self.rest.split_at(length);
        let digits = std::str::from_utf8(digits).map_err(|_| BencodeError::Malformed)?;
        if digits.is_empty() || digits == "-" {
            return Err(BencodeError::Malformed);
        }
        let number: i64 = digits.parse().map_err(|_| BencodeError::Number)?;
        if number.to_string() != digits {
            return Err(BencodeError::Number);
        }
        self.rest = rest;
        self.skip();
        Ok(number)
    }
}

/// Writes values one after the other. The order of keys is the caller's business: BEP 3 wants them sorted.
#[derive(Debug, Default)]
pub struct Writer(Vec<u8>);

impl Writer {
    /// A dictionary, whose keys `inside` writes.
    pub fn dictionary(&mut self, inside: impl FnOnce(&mut Self)) {
        self.0.push(b'd');
        inside(self);
        self.0.push(b'e');
    }

    /// A list, whose values `inside` writes.
    pub fn list(&mut self, inside: impl FnOnce(&mut Self)) {
        self.0.push(b'l');
        inside(self);
        self.0.push(b'e');
    }

    /// A text; also a key.
    pub fn bytes(&mut self, bytes: &[u8]) {
        self.0.extend_from_slice(bytes.len().to_string().as_bytes());
        self.0.push(b':');
        self.0.extend_from_slice(bytes);
    }

    /// A number.
    pub fn integer(&mut self, number: i64) {
        self.0.extend_from_slice(format!("i{number}e").as_bytes());
    }

    /// A key and a text.
    pub fn entry(&mut self, key: &str, bytes: &[u8]) {
        self.bytes(key.as_bytes());
        self.bytes(bytes);
    }

    /// A key and a number.
    pub fn number(&mut self, key: &str, number: i64) {
        self.bytes(key.as_bytes());
        self.integer(number);
    }

    /// What was written.
    pub fn finish(self) -> Vec<u8> {
        self.0
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "it is a test")]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn write(value: &Value<'_>, out: &mut Writer) {
        match value {
            Value::Integer(number) => out.integer(*number),
            Value::Bytes(bytes) => out.bytes(bytes),
            Value::List(list) => out.list(|out| list.iter().for_each(|value| write(value, out))),
            Value::Dictionary(entries) => out.dictionary(|out| {
                for (key, value) in entries {
                    out.bytes(key);
                    write(value, out);
                }
            }),
        }
    }

    #[test]
    fn what_bep_3_shows_is_read() {
        let text = b"d3:cow3:moo4:spaml1:a1:be5:threei-3ee";
        let value = Value::decode(text).unwrap();
        assert_eq!(value.get("cow").unwrap().bytes(), Some(&b"moo"[..]));
        assert_eq!(value.get("spam").unwrap().list().unwrap().len(), 2);
        assert_eq!(value.get("three").unwrap().integer(), Some(-3));
        let mut out = Writer::default();
        write(&value, &mut out);
        assert_eq!(out.finish(), text);
    }

    #[test]
    fn what_is_no_value_is_refused() {
        for (text, error) in [
            (&b""[..], BencodeError::Truncated),
            (b"i1", BencodeError::Truncated),
            (b"5:abc", BencodeError::Truncated),
            (b"99999999999999999999:a", BencodeError::Number),
            (b"999999999999999999999999:a", BencodeError::Number),
            (b"ie", BencodeError::Malformed),
            (b"i-0e", BencodeError::Number),
            (b"i03e", BencodeError::Number),
            (b"01:a", BencodeError::Number),
            (b"i1ei2e", BencodeError::Trailing),
            (b"di1ei2ee", BencodeError::Malformed),
            (b"d1:ae", BencodeError::Malformed),
            (b"-1:a", BencodeError::Malformed),
            (b"x", BencodeError::Malformed),
        ] {
            assert_eq!(Value::decode(text), Err(error), "{text:?}");
        }
    }

    #[test]
    fn what_is_deep_or_long_is_refused_before_it_costs_anything() {
        assert_eq!(
            Value::decode(&[b'l'; 60_000]),
            Err(BencodeError::TooLarge),
            "depth"
        );
        let many = [&b"l"[..], &b"0:".repeat(600), b"e"].concat();
        assert_eq!(Value::decode(&many), Err(BencodeError::TooLarge), "count");
    }

    proptest! {
        #[test]
        fn any_bytes_are_read_or_refused(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            let _ = Value::decode(&bytes);
        }

        /// What is read is written as it was: there is one form only, but for the order of keys, which is kept.
        #[test]
        fn what_looks_like_a_value_comes_back(text in "[ilde0-9:a-]{0,40}") {
            if let Ok(value) = Value::decode(text.as_bytes()) {
                let mut out = Writer::default();
                write(&value, &mut out);
                prop_assert_eq!(out.finish(), text.as_bytes());
            }
        }
    }
}
