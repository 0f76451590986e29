//! Member and cluster ids: hashes, by etcd's formulas.
//!
//! | id | the first 8 bytes, big endian, of the SHA-1 of |
//! |---|---|
//! | member | its peer URLs, sorted, without separator; the token; when added at runtime the Unix seconds in decimal |
//! | cluster | the ids of the first members, ascending, 8 bytes big endian each |
//!
//! A member added at runtime has the token left out (empty) and the time in its place, so that
//! the same URLs can be removed and added again and get a new id.

use crate::types::{ClusterId, MemberId};
use sha1::{Digest, Sha1};

/// The id of a member. `added_at` is the time, in Unix seconds, of a runtime addition; then etcd
/// passes an empty `token`.
pub fn member_id<T: AsRef<str>>(peer_urls: &[T], token: &str, added_at: Option<u64>) -> MemberId {
    let mut urls: Vec<&str> = peer_urls.iter().map(AsRef::as_ref).collect();
    urls.sort_unstable();
    let mut hash = Sha1::new();
    for url in urls {
        hash.update(url);
    }
    hash.update(token);
    if let Some(seconds) = added_at {
        hash.update(seconds.to_string());
    }
    MemberId(first_eight(hash))
}

/// The id of the cluster that begins with these members.
pub fn cluster_id(members: impl IntoIterator<Item = MemberId>) -> ClusterId {
    let mut ids: Vec<MemberId> = members.into_iter().collect();
    ids.sort_unstable();
    let mut hash = Sha1::new();
    for MemberId(id) in ids {
        hash.update(id.to_be_bytes());
    }
    ClusterId(first_eight(hash))
}

fn first_eight(hash: Sha1) -> u64 {
    let digest = hash.finalize();
    let bytes = digest[..8].try_into().expect("SHA-1 has 20 bytes");
    u64::from_be_bytes(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_default_member_has_etcds_well_known_ids() {
        let member = member_id(&["http://localhost:2380"], "etcd-cluster", None);
        assert_eq!(member, MemberId(0x8e9e_05c5_2164_694d));
        assert_eq!(cluster_id([member]), ClusterId(0xcdf8_1819_4e3a_8c32));
    }

    /// Logged by an etcd 3.5.1 started on this URL.
    #[test]
    fn ids_agree_with_those_a_real_etcd_logged() {
        let member = member_id(&["http://127.0.0.1:43801"], "etcd-cluster", None);
        assert_eq!(member.to_string(), "4cbe697a30dfbe95");
        assert_eq!(cluster_id([member]).to_string(), "64d4730cf428d88");
    }

    #[test]
    fn the_order_of_urls_and_members_does_not_matter() {
        let one = member_id(&["http://a:1", "http://b:1"], "t", None);
        assert_eq!(one, member_id(&["http://b:1", "http://a:1"], "t", None));
        let other = member_id(&["http://c:1"], "t", None);
        assert_eq!(cluster_id([one, other]), cluster_id([other, one]));
    }

    #[test]
    fn token_and_time_make_other_ids() {
        let urls = ["http://a:1"];
        let ids = [
            member_id(&urls, "t", None),
            member_id(&urls, "u", None),
            member_id(&urls, "", Some(1_700_000_000)),
            member_id(&urls, "", Some(1_700_000_001)),
        ];
        for (index, id) in ids.iter().enumerate() {
            assert!(!ids[..index].contains(id));
        }
        assert_eq!(ids[2], member_id(&urls, "1700000000", None), "the time stands as text");
    }
}
