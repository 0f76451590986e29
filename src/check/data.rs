//! A key or a value, as text where it is text.
//!
//! etcd's keys and values are bytes. Those of a recorded history are nearly always words, and a
//! person reads them; so in JSON a byte string is a string when it is UTF-8, and `{"hex":"00ff"}`
//! when it is not. Both are read back to the same bytes.

use bytes::Bytes;
use serde::de::{self, MapAccess, Visitor};
use serde::ser::SerializeMap;
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use std::borrow::Borrow;
use std::fmt;

/// A byte string that is cheap to clone.
#[derive(Clone, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Data(pub Bytes);

impl Data {
    /// Whether it has no bytes.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

/// Equal, ordered and hashed as its bytes are.
impl Borrow<[u8]> for Data {
    fn borrow(&self) -> &[u8] {
        &self.0
    }
}

impl From<&str> for Data {
    fn from(text: &str) -> Data {
        Data(Bytes::copy_from_slice(text.as_bytes()))
    }
}

impl From<String> for Data {
    fn from(text: String) -> Data {
        Data(Bytes::from(text))
    }
}

impl From<Bytes> for Data {
    fn from(bytes: Bytes) -> Data {
        Data(bytes)
    }
}

impl From<Vec<u8>> for Data {
    fn from(bytes: Vec<u8>) -> Data {
        Data(Bytes::from(bytes))
    }
}

/// As in a sentence: text in quotes, else hexadecimal.
impl fmt::Display for Data {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match std::str::from_utf8(&self.0) {
            Ok(text) => write!(f, "{text:?}"),
            Err(_) => write!(f, "0x{}", hex(&self.0)),
        }
    }
}

impl fmt::Debug for Data {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl Serialize for Data {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match std::str::from_utf8(&self.0) {
            Ok(text) => serializer.serialize_str(text),
            Err(_) => {
                let mut map = serializer.serialize_map(Some(1))?;
                map.serialize_entry("hex", &hex(&self.0))?;
                map.end()
            }
        }
    }
}

impl<'de> Deserialize<'de> for Data {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Data, D::Error> {
        deserializer.deserialize_any(DataVisitor)
    }
}

struct DataVisitor;

impl<'de> Visitor<'de> for DataVisitor {
    type Value = Data;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a string or {\"hex\": \"...\"}")
    }

    fn visit_str<E: de::Error>(self, text: &str) -> Result<Data, E> {
        Ok(Data::from(text))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Data, A::Error> {
        let entry: Option<(String, String)> = map.next_entry()?;
        let digits = match entry {
            Some((name, digits)) if name == "hex" => digits,
            Some((name, _)) => return Err(de::Error::unknown_field(&name, &["hex"])),
            None => return Err(de::Error::missing_field("hex")),
        };
        if let Some((name, _)) = map.next_entry::<String, de::IgnoredAny>()? {
            return Err(de::Error::unknown_field(&name, &["hex"]));
        }
        unhex(&digits).map(Data::from).ok_or_else(|| de::Error::custom("not pairs of hex digits"))
    }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn unhex(digits: &str) -> Option<Vec<u8>> {
    let digits: Option<Vec<u32>> = digits.chars().map(|digit| digit.to_digit(16)).collect();
    let digits = digits.filter(|digits| digits.len().is_multiple_of(2))?;
    Some(digits.chunks(2).map(|pair| u8::try_from(pair[0] * 16 + pair[1]).unwrap_or(0)).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_come_back_from_json_as_they_were() {
        for bytes in [&b""[..], b"a", b"\0", b"\xff\x00", "ä\n\"".as_bytes()] {
            let data = Data::from(bytes.to_vec());
            let json = serde_json::to_string(&data).unwrap();
            assert_eq!(serde_json::from_str::<Data>(&json).unwrap(), data, "{json}");
        }
    }

    #[test]
    fn what_is_neither_text_nor_hex_is_refused() {
        for json in ["1", "{}", r#"{"hex":"0"}"#, r#"{"hex":"zz"}"#, r#"{"oct":"00"}"#] {
            assert!(serde_json::from_str::<Data>(json).is_err(), "{json}");
        }
    }
}
