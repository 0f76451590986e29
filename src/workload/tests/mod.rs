//! Generators decide the same for the same seed, and each profile does all that it promises.

use super::watching::{Turn, Watching};
use super::{Generator, Profile, Recorder, Settings, Step, client, profiles, settle, watcher};
use crate::check::Data;
use crate::check::op::{
    Compare, CompareTarget, KeyValue, Outcome, Request, Response, Start, TxnRequest,
};
use crate::check::store::Store;
use crate::env::real::Real;
use crate::types::{LeaseId, Revision};
use std::collections::BTreeMap;
use std::time::Duration;

/// What a client does alone on a store that obeys: the model the checker measures answers by.
fn alone(profile: &Profile, seed: u64, client: u8, steps: usize) -> Vec<Step> {
    let mut store = Store::new(&Start::default());
    let mut generator = Generator::new(profile, seed, client, 5);
    let mut done = Vec::new();
    for _ in 0..steps {
        let step = generator.next();
        done.push(step.clone());
        let Step::Call(request) = step else { continue };
        let outcome = match store.evaluate(&request) {
            Ok((response, changes)) => {
                if !changes.is_empty() {
                    store.push(changes);
                }
                Outcome::Ok(response)
            }
            Err(refusal) => Outcome::Failed(refusal.text().into()),
        };
        generator.told(&request, &outcome);
    }
    done
}

#[test]
fn the_same_seed_makes_the_same_requests_and_another_seed_or_client_others() {
    for profile in profiles() {
        let steps = alone(profile, 7, 1, 300);
        assert_eq!(steps, alone(profile, 7, 1, 300), "{}", profile.name);
        assert_ne!(steps, alone(profile, 8, 1, 300), "{}", profile.name);
        assert_ne!(steps, alone(profile, 7, 2, 300), "{}", profile.name);
    }
}

#[test]
fn profiles_are_found_by_their_names_which_differ() {
    for profile in profiles() {
        let found = Profile::named(profile.name).expect("it is there");
        assert!(std::ptr::eq(found, profile), "{}", profile.name);
        assert!(!profile.summary.is_empty() && !profile.summary.contains('\n'));
    }
    assert!(Profile::named("nonsense").is_none());
}

/// A word for every trait of a request that a profile may promise.
fn traits(step: &Step, found: &mut BTreeMap<String, usize>) {
    let mut count = |word: &str| *found.entry(word.to_owned()).or_default() += 1;
    let request = match step {
        Step::TimeToLive(_) => return count("time to live"),
        Step::Call(request) => request,
    };
    count(request.name());
    match request {
        Request::Range(range) => {
            for (is, word) in [
                (range.serializable, "serializable"),
                (range.limit > 0 && range.revision.0 == 0, "first page"),
                (range.limit > 0 && range.revision.0 > 0, "next page"),
                (range.revision.0 > 0, "past"),
                (range.keys_only, "keys only"),
                (range.count_only, "count only"),
                (!range.range_end.is_empty(), "range of keys"),
            ] {
                if is {
                    count(word);
                }
            }
        }
        Request::Put(put) => {
            for (is, word) in [
                (put.lease.0 != 0, "put with lease"),
                (put.prev_kv, "put with prev_kv"),
                (put.ignore_value, "ignore value"),
                (put.ignore_lease, "ignore lease"),
                (put.value.0.len() > 1_000, "large value"),
            ] {
                if is {
                    count(word);
                }
            }
        }
        Request::DeleteRange(delete) if !delete.range_end.is_empty() => count("delete of a range"),
        Request::Txn(txn) => txn_traits(txn, &mut count),
        _ => {}
    }
}

fn txn_traits(txn: &TxnRequest, count: &mut impl FnMut(&str)) {
    let puts = txn.success.iter().filter(|part| matches!(part, Request::Put(_))).count();
    if puts > 1 {
        count("several puts");
    }
    for Compare { range_end, target, .. } in &txn.compare {
        if !range_end.is_empty() {
            count("compare of a range");
        }
        count(match target {
            CompareTarget::Version(_) => "compare version",
            CompareTarget::CreateRevision(_) => "compare create",
            CompareTarget::ModRevision(_) => "compare mod",
            CompareTarget::Value(_) => "compare value",
            CompareTarget::Lease(_) => "compare lease",
        });
    }
    for part in txn.success.iter().chain(&txn.failure) {
        match part {
            Request::Txn(_) => count("nested"),
            Request::DeleteRange(_) => count("delete in txn"),
            Request::Range(range) if range.revision.0 > 0 => count("past in txn"),
            _ => {}
        }
    }
}

#[test]
fn each_profile_does_all_that_it_promises() {
    let promised: [(&str, &[&str]); 9] = [
        (
            "register",
            &[
                "put",
                "range",
                "serializable",
                "delete_range",
                "put with prev_kv",
                "ignore value",
                "large value",
                "compare version",
                "compare mod",
                "compare value",
                "compare create",
                "delete in txn",
            ],
        ),
        ("append", &["range", "txn", "several puts", "compare mod"]),
        ("bank", &["range of keys", "serializable", "several puts", "compare of a range"]),
        (
            "set",
            &[
                "put",
                "several puts",
                "delete_range",
                "delete of a range",
                "range of keys",
                "serializable",
                "count only",
            ],
        ),
        (
            "pages",
            &[
                "first page",
                "next page",
                "past",
                "count only",
                "keys only",
                "nested",
                "compare of a range",
                "delete of a range",
                "past in txn",
                "compact",
            ],
        ),
        ("watch", &["put", "several puts", "delete_range", "delete of a range", "compact"]),
        (
            "lease",
            &[
                "lease_grant",
                "lease_revoke",
                "lease_keep_alive",
                "time to live",
                "put with lease",
                "ignore lease",
                "compare lease",
            ],
        ),
        (
            "kubernetes",
            &[
                "range",
                "txn",
                "compare mod",
                "compare version",
                "delete in txn",
                "first page",
                "next page",
                "lease_grant",
                "put with lease",
                "compact",
            ],
        ),
        (
            "mixed",
            &["nested", "several puts", "lease_revoke", "compact", "next page", "put with lease"],
        ),
    ];
    assert_eq!(promised.len(), profiles().len());
    for (name, words) in promised {
        let profile = Profile::named(name).expect("it is there");
        let mut found = BTreeMap::new();
        alone(profile, 3, 0, 4_000).iter().for_each(|step| traits(step, &mut found));
        for word in words {
            assert!(found.contains_key(*word), "{name} never does: {word}; it does {found:?}");
        }
    }
}

/// Adds the values that a request puts, and the leases it grants.
fn unique(request: &Request, values: &mut Vec<Data>, leases: &mut Vec<LeaseId>) {
    match request {
        Request::Put(put) if !put.ignore_value => values.push(put.value.clone()),
        Request::LeaseGrant(grant) => leases.push(grant.id),
        Request::Txn(txn) => {
            txn.success.iter().chain(&txn.failure).for_each(|part| unique(part, values, leases));
        }
        _ => {}
    }
}

/// Adds the keys where a request's ranges begin.
fn keys_of(request: &Request, keys: &mut Vec<Data>) {
    match request {
        Request::Range(range) => keys.push(range.key.clone()),
        Request::Put(put) => keys.push(put.key.clone()),
        Request::DeleteRange(delete) => keys.push(delete.key.clone()),
        Request::Txn(txn) => {
            keys.extend(txn.compare.iter().map(|compare| compare.key.clone()));
            txn.success.iter().chain(&txn.failure).for_each(|part| keys_of(part, keys));
        }
        Request::Compact(_)
        | Request::LeaseGrant(_)
        | Request::LeaseRevoke(_)
        | Request::LeaseKeepAlive(_) => {}
    }
}

#[test]
fn clients_put_no_value_and_grant_no_lease_twice_and_keep_to_their_prefixes() {
    for profile in profiles() {
        let (mut values, mut leases) = (Vec::new(), Vec::new());
        for client in 0..3 {
            for step in alone(profile, 11, client, 1_500) {
                let Step::Call(request) = step else { continue };
                // Several keys of one append get the same new element, each after its own list.
                if profile.name != "append" && profile.name != "mixed" {
                    unique(&request, &mut values, &mut leases);
                }
                let mut keys = Vec::new();
                keys_of(&request, &mut keys);
                let own = |key: &Data| {
                    profile.prefixes.iter().any(|prefix| key.0.starts_with(prefix.as_bytes()))
                };
                assert!(keys.iter().all(own), "{request:?}");
            }
        }
        let (puts, grants) = (values.len(), leases.len());
        values.sort();
        values.dedup();
        leases.sort();
        leases.dedup();
        assert_eq!((values.len(), leases.len()), (puts, grants), "{}", profile.name);
    }
}

#[test]
fn transfers_keep_the_total() {
    let mut store = Store::new(&Start::default());
    let profile = Profile::named("bank").expect("it is there");
    let mut clients: Vec<Generator> =
        (0..3).map(|client| Generator::new(profile, 5, client, 3)).collect();
    let mut transfers = 0;
    for step in 0..900 {
        let client = &mut clients[step % 3];
        let Step::Call(request) = client.next() else { panic!("a bank only calls") };
        let (response, changes) = store.evaluate(&request).expect("it asks for nothing odd");
        if !changes.is_empty() {
            transfers += 1;
            store.push(changes);
        }
        client.told(&request, &Outcome::Ok(response));
        let balance = |number: usize| {
            let key = Data::from(format!("bank/{number}"));
            let kv: &KeyValue = store.get(&key, store.revision()).expect("accounts stay");
            let text = String::from_utf8(kv.value.0.to_vec()).expect("text");
            text.split(' ').next().and_then(|number| number.parse::<i64>().ok()).expect("a number")
        };
        assert_eq!((0..6).map(balance).sum::<i64>(), 600);
    }
    assert!(transfers > 50, "{transfers}");
}

#[test]
fn watchers_decide_the_same_for_the_same_seed_and_use_every_option() {
    let settings = Settings::new(Profile::named("mixed").expect("it is there"), 9);
    let mut words = BTreeMap::new();
    for number in 0..4 {
        let [mut one, mut other] = [0, 0].map(|part| Watching::new(&settings, number, part));
        for _ in 0..60 {
            let plan = one.stream(Revision(500));
            assert_eq!(plan, other.stream(Revision(500)));
            let mut wanted = plan.watches;
            for _ in 0..40 {
                let turn = one.turn(Revision(500), 2);
                assert_eq!(turn, other.turn(Revision(500), 2));
                let word = match turn {
                    Turn::GoOn => "go on",
                    Turn::Open(one) => {
                        wanted.push(one);
                        "open"
                    }
                    Turn::Cancel(_) => "cancel",
                    Turn::AskProgress => "ask progress",
                    Turn::Doze(_) => "doze",
                };
                *words.entry(word).or_insert(0) += 1;
            }
            for wanted in wanted {
                let request = wanted.request(Revision(1), 0);
                for (is, word) in [
                    (request.prev_kv, "prev_kv"),
                    (request.fragment, "fragment"),
                    (request.progress_notify, "progress_notify"),
                    (request.filters == [0], "no put"),
                    (request.filters == [1], "no delete"),
                    (wanted.range_end.is_empty(), "one key"),
                    (wanted.start == super::watching::Start::At(Revision(0)), "from now"),
                ] {
                    if is {
                        *words.entry(word).or_insert(0) += 1;
                    }
                }
            }
        }
    }
    assert_eq!(words.len(), 12, "{words:?}");
}

#[test]
fn what_is_recorded_is_seen_line_by_line_and_counted() {
    use crate::check::history::Line;
    use crate::check::op::{Operation, PutRequest, PutResponse};
    use std::sync::{Arc, Mutex};
    let lines = Arc::new(Mutex::new(Vec::new()));
    let seen = lines.clone();
    let recorder = Recorder::new(|| 5, move |line| seen.lock().unwrap().push(line.clone()));
    let put = |outcome| Operation {
        process: 0,
        member: String::new(),
        session: 0,
        invoke: 1,
        returned: Some(2),
        request: Request::Put(PutRequest::default()),
        outcome,
    };
    let told = PutResponse { revision: Revision(4), prev_kv: None };
    recorder.operation(put(Outcome::Ok(Response::Put(told))));
    recorder.operation(put(Outcome::Unknown("late".into())));
    recorder.operation(put(Outcome::Failed("no".into())));
    recorder.fault(1, Some(3), "kill");
    assert_eq!((recorder.calls(), recorder.answered(), recorder.unknown()), (3, 1, 1));
    assert_eq!(recorder.revision(), Revision(4));
    let history = recorder.history();
    assert_eq!((history.operations.len(), history.faults.len()), (3, 1));
    let lines = lines.lock().unwrap();
    assert_eq!(lines.len(), 4);
    assert_eq!(lines[0], Line::Op(Box::new(history.operations[0].clone())));
}

#[test]
fn watchers_are_behind_until_they_have_ended() {
    let recorder = Recorder::new(|| 0, |_| {});
    assert!(recorder.watchers_behind().is_empty());
    recorder.watcher_at("one", Some(Revision(3)));
    recorder.watcher_at("two", Some(Revision(4)));
    assert_eq!(recorder.watchers_behind().len(), 2);
    recorder.watcher_at("one", None);
    assert_eq!(recorder.watchers_behind(), ["two is at revision 4"]);
}

/// The loops can be spawned on any world.
#[test]
fn loops_can_be_sent_to_other_threads() {
    fn sent(_: impl Send) {}
    let settings = Settings::new(&profiles()[0], 1);
    let recorder = Recorder::new(|| 0, |_| {});
    let at = || vec!["127.0.0.1:1".to_owned()];
    sent(client(Real::new(), at(), 0, settings.clone(), recorder.clone()));
    sent(watcher(Real::new(), at(), 0, settings.clone(), recorder.clone()));
    sent(settle(Real::new(), at(), &settings, &recorder, Duration::ZERO));
}
