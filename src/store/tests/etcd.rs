//! Hashes a real etcd 3.7.1 answered for the same writes.

use super::*;
use crate::types::Revision;

fn hashes(store: &Store, expected: &[(i64, u32)]) {
    for &(revision, hash) in expected {
        let ours = store.reader().hash_kv(Revision(revision)).unwrap();
        assert_eq!(ours.hash, hash, "at revision {revision}");
        assert_eq!(ours.compact_revision, Revision(-1));
    }
}

#[test]
fn hash_kv_is_etcds() {
    let (mut store, _) = new_store();
    put(&mut store, "a", "1");
    put(&mut store, "b", "1");
    put(&mut store, "a", "2");
    store.flush().unwrap();
    delete(&mut store, &keys("b", ""));
    put(&mut store, "c", "3");
    let expected = [
        (1, 1084519789),
        (2, 2587454935),
        (3, 2143169314),
        (4, 3086679940),
        (5, 1416966122),
        (6, 1448948654),
        (0, 1448948654),
    ];
    hashes(&store, &expected);
    store.flush().unwrap();
    hashes(&store, &expected);
}

#[test]
fn hash_kv_covers_sub_revisions_and_leases_as_etcds_does() {
    let (mut store, _) = new_store();
    let mut write = store.write().unwrap();
    write.put(b"a", b"1", LeaseId(7)).unwrap();
    write.put(b"b", b"2", LeaseId(0)).unwrap();
    write.put(b"c", b"", LeaseId(0)).unwrap();
    write.finish();
    hashes(&store, &[(0, 1952114986)]);
    delete(&mut store, &keys("a", ""));
    hashes(&store, &[(0, 2237736820)]);
    delete(&mut store, &KeyRange::all());
    hashes(&store, &[(0, 3396363309), (2, 1952114986)]);
}

#[test]
fn a_remembered_compaction_hash_answers_for_its_revision() {
    let (mut store, _) = new_store();
    for (key, value) in [("a", "1"), ("b", "1"), ("a", "2")] {
        put(&mut store, key, value);
    }
    let before = store.reader().hash_kv(Revision(4)).unwrap();
    let job = store.compaction_hash(Revision(4)).unwrap();
    store.compact(Revision(4)).unwrap().unwrap();
    compact_fully(&mut store);
    let hash = job.run().unwrap().unwrap();
    assert_eq!(hash, before);
    store.remember_hash(hash).unwrap();
    let reader = store.reader();
    assert_eq!(reader.hash_kv(Revision(4)).unwrap(), before);
    assert_eq!(reader.hash_kv(Revision(0)).unwrap().compact_revision, Revision(4));
    assert!(reader.hash_kv(Revision(3)).is_err());
    assert!(reader.hash_kv(Revision(5)).is_err());
    assert_eq!(reader.hash_kv(Revision(-1)).unwrap().hash_revision, Revision(-1));
}
