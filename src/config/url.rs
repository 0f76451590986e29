//! The URLs a member listens on or advertises: scheme, host and port, nothing else.
//!
//! The text matters beyond reaching anyone: member ids are hashes of peer URLs, so a URL is kept
//! as it was written (only the scheme is made lower case, as Go does) and sorts by its text.

use std::cmp::Ordering;
use std::fmt;
use std::net::IpAddr;

/// How to reach or listen.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Scheme {
    Http,
    Https,
    /// A Unix socket without TLS.
    Unix,
    /// A Unix socket with TLS.
    Unixs,
}

impl Scheme {
    const ALL: [Scheme; 4] = [Scheme::Http, Scheme::Https, Scheme::Unix, Scheme::Unixs];

    /// As before the `://`.
    pub fn name(self) -> &'static str {
        match self {
            Scheme::Http => "http",
            Scheme::Https => "https",
            Scheme::Unix => "unix",
            Scheme::Unixs => "unixs",
        }
    }
}

/// A URL of a member.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub struct Url {
    scheme: Scheme,
    /// `host:port` as written; brackets around an IPv6 address stay.
    address: String,
    /// Without brackets.
    host: String,
    port: u16,
}

impl Url {
    /// Reads a URL; blanks around it do not count. The error carries etcd's text.
    pub fn parse(text: &str) -> Result<Url, String> {
        let text = text.trim();
        let scheme_error = || {
            let hint = if text.contains("://") || text.is_empty() {
                String::new()
            } else {
                format!(" (did you mean http://{text}?)")
            };
            format!("URL scheme must be http, https, unix, or unixs: {text}{hint}")
        };
        let (scheme, rest) = text.split_once("://").ok_or_else(scheme_error)?;
        let scheme = Scheme::ALL
            .into_iter()
            .find(|known| scheme.eq_ignore_ascii_case(known.name()))
            .ok_or_else(scheme_error)?;
        let end = rest.find(['/', '?', '#']).unwrap_or(rest.len());
        let (address, path) = rest.split_at(end);
        let (host, port) = split_address(address)
            .ok_or_else(|| format!("URL address does not have the form \"host:port\": {text}"))?;
        if !path.is_empty() {
            return Err(format!("URL must not contain a path: {text}"));
        }
        Ok(Url { scheme, address: address.to_owned(), host: host.to_owned(), port })
    }

    pub fn scheme(&self) -> Scheme {
        self.scheme
    }

    /// `host:port`, the form to bind or connect to.
    pub fn address(&self) -> &str {
        &self.address
    }

    /// A name or an IP address; empty if the URL has none (`http://:2379`).
    pub fn host(&self) -> &str {
        &self.host
    }

    /// 0 where the system shall choose.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// Whether one can listen on it: etcd takes only IP addresses and `localhost`, because what
    /// another name means to the resolver at this moment is a poor guide to where to listen.
    pub fn is_bindable(&self) -> bool {
        self.host == "localhost" || self.host.parse::<IpAddr>().is_ok()
    }

    /// Whether two URLs lead to the same place as far as can be told without a resolver:
    /// `localhost` is 127.0.0.1, addresses are compared as addresses.
    pub fn same_place(&self, other: &Url) -> bool {
        fn place(host: &str) -> Result<IpAddr, &str> {
            if host == "localhost" { "127.0.0.1" } else { host }.parse().map_err(|_| host)
        }
        self.scheme == other.scheme
            && self.port == other.port
            && place(&self.host) == place(&other.host)
    }
}

/// Host without brackets, and port. No user, no blanks, and IPv6 only in brackets.
fn split_address(address: &str) -> Option<(&str, u16)> {
    let (host, port) = address.rsplit_once(':')?;
    let host = match host.strip_prefix('[') {
        Some(rest) => rest.strip_suffix(']')?,
        None if host.contains(':') => return None,
        None => host,
    };
    if host.contains(['@', '[', ']']) || host.contains(char::is_whitespace) {
        return None;
    }
    // Rust's number parser takes a sign.
    if !port.bytes().all(|byte| byte.is_ascii_digit()) {
        return None;
    }
    Some((host, port.parse().ok()?))
}

impl fmt::Display for Url {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}://{}", self.scheme.name(), self.address)
    }
}

impl Ord for Url {
    fn cmp(&self, other: &Url) -> Ordering {
        self.to_string().cmp(&other.to_string())
    }
}

impl PartialOrd for Url {
    fn partial_cmp(&self, other: &Url) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn urls_keep_their_text() {
        for text in
            ["http://localhost:2379", "https://Node-1:0", "http://[::1]:2380", "unix://sock:1"]
        {
            assert_eq!(Url::parse(text).unwrap().to_string(), text);
        }
        let url = Url::parse(" HTTP://[::1]:2380 ").unwrap();
        assert_eq!(url.to_string(), "http://[::1]:2380");
        assert_eq!((url.address(), url.host(), url.port()), ("[::1]:2380", "::1", 2380));
    }

    #[test]
    fn malformed_urls_get_etcds_texts() {
        let scheme = "URL scheme must be http, https, unix, or unixs: ";
        let form = "URL address does not have the form \"host:port\": ";
        let table = [
            ("ftp://a:1", format!("{scheme}ftp://a:1")),
            ("", scheme.to_owned()),
            (
                "127.0.0.1:2379",
                format!("{scheme}127.0.0.1:2379 (did you mean http://127.0.0.1:2379?)"),
            ),
            ("http://a", format!("{form}http://a")),
            ("http://a:", format!("{form}http://a:")),
            ("http://a:65536", format!("{form}http://a:65536")),
            ("http://a:+1", format!("{form}http://a:+1")),
            ("http://::1:2379", format!("{form}http://::1:2379")),
            ("http://[::1:2379", format!("{form}http://[::1:2379")),
            ("http://u:p@a:1", format!("{form}http://u:p@a:1")),
            ("http://a b:1", format!("{form}http://a b:1")),
            ("http://a:1/", "URL must not contain a path: http://a:1/".to_owned()),
            ("http://a:1/v2", "URL must not contain a path: http://a:1/v2".to_owned()),
            ("http://a:1?b", "URL must not contain a path: http://a:1?b".to_owned()),
        ];
        for (text, error) in table {
            assert_eq!(Url::parse(text), Err(error), "{text}");
        }
    }

    #[test]
    fn only_addresses_and_localhost_can_be_listened_on() {
        for (text, bindable) in [
            ("http://localhost:1", true),
            ("http://0.0.0.0:1", true),
            ("http://[::]:1", true),
            ("http://etcd.example:1", false),
            ("http://:1", false),
        ] {
            assert_eq!(Url::parse(text).unwrap().is_bindable(), bindable, "{text}");
        }
    }

    #[test]
    fn places_are_compared_without_a_resolver() {
        for (one, other, same) in [
            ("http://localhost:1", "http://127.0.0.1:1", true),
            ("http://[::1]:1", "http://[0:0::1]:1", true),
            ("http://a:1", "http://a:1", true),
            ("http://a:1", "http://b:1", false),
            ("http://a:1", "http://a:2", false),
            ("http://a:1", "https://a:1", false),
        ] {
            let (one, other) = (Url::parse(one).unwrap(), Url::parse(other).unwrap());
            assert_eq!(one.same_place(&other), same, "{one} {other}");
        }
    }
}
