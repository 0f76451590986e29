//! Works through etcd's API with the `etcd-client` crate as it is on crates.io.
//!
//! `client-check http://127.0.0.1:2379` says what it does and ends with an error at the first
//! answer that is not etcd's. A program that uses this crate is what is tested, not the server's
//! corners: those are in the recorded conversations. It keeps to keys under a prefix of its own,
//! so the server need not be empty, and removes them at the end. Locks and elections are left
//! out while the server does not offer them.

// A client in the real world: it has a clock.
#![allow(clippy::disallowed_methods)]

use etcd_client::{
    Client, CompactionOptions, Compare, CompareOp, DeleteOptions, Error, EventType, GetOptions,
    LeaseTimeToLiveOptions, PutOptions, SortOrder, SortTarget, Txn, TxnOp, TxnOpResponse,
    WatchOptions, WatchStream,
};
use std::fmt::Debug;
use std::time::Duration;
use tokio::time::timeout;

type Result<T> = std::result::Result<T, Box<dyn std::error::Error>>;

/// How long the server may take to say the next thing.
const PATIENCE: Duration = Duration::from_secs(20);

#[tokio::main]
async fn main() -> Result<()> {
    let endpoint = std::env::args().nth(1).ok_or("usage: client-check ENDPOINT")?;
    let mut check = Check {
        client: Client::connect([&endpoint], None).await?,
        prefix: format!("client-check/{}/", std::process::id()),
    };
    println!("connected to {endpoint}");
    check.put_and_get().await?;
    check.ranges().await?;
    check.transactions().await?;
    check.watches().await?;
    check.leases().await?;
    check.errors().await?;
    check.maintenance().await?;
    check.clean_up().await?;
    println!("all is well");
    Ok(())
}

/// A wrong answer is the end.
fn expect<T: PartialEq + Debug>(what: &str, got: T, want: T) -> Result<()> {
    if got != want {
        return Err(format!("{what}: got {got:?}, wanted {want:?}").into());
    }
    println!("  {what}: {got:?}");
    Ok(())
}

fn revision(header: Option<&etcd_client::ResponseHeader>) -> Result<i64> {
    Ok(header.ok_or("an answer without header")?.revision())
}

struct Check {
    client: Client,
    prefix: String,
}

impl Check {
    fn key(&self, name: &str) -> String {
        format!("{}{name}", self.prefix)
    }

    async fn put_and_get(&mut self) -> Result<()> {
        println!("put and get");
        let key = self.key("one");
        let first = self.client.put(key.clone(), "1", None).await?;
        expect("no pair before", first.prev_key().is_none(), true)?;
        let options = PutOptions::new().with_prev_key();
        let second = self.client.put(key.clone(), "2", Some(options)).await?;
        let previous = second.prev_key().ok_or("no previous pair")?;
        expect("previous value", previous.value_str()?, "1")?;
        let (first, second) = (revision(first.header())?, revision(second.header())?);
        expect("revisions grow", second > first, true)?;

        let got = self.client.get(key.clone(), None).await?;
        let pair = got.kvs().first().ok_or("nothing there")?;
        expect("value", pair.value_str()?, "2")?;
        expect("version", pair.version(), 2)?;
        expect("created at", pair.create_revision(), first)?;
        expect("changed at", pair.mod_revision(), second)?;
        let old = self.client.get(key, Some(GetOptions::new().with_revision(first))).await?;
        expect("old value", old.kvs()[0].value_str()?, "1")
    }

    async fn ranges(&mut self) -> Result<()> {
        println!("ranges");
        for (name, value) in [("r/a", "3"), ("r/b", "2"), ("r/c", "1")] {
            self.client.put(self.key(name), value, None).await?;
        }
        let prefix = || GetOptions::new().with_prefix();
        let values = |options| {
            let (mut client, key) = (self.client.clone(), self.key("r/"));
            async move {
                let got = client.get(key, Some(options)).await?;
                let values = got.kvs().iter().map(|pair| pair.value_str().map(String::from));
                Ok::<_, Error>((values.collect::<Vec<_>>(), got.count(), got.more()))
            }
        };
        let show = |(values, count, more): (Vec<std::result::Result<String, Error>>, i64, bool)| {
            let values: Vec<String> = values.into_iter().flatten().collect();
            format!("{} of {count}, more: {more}", values.join(" "))
        };
        let want = |text: &str| text.to_string();
        expect("prefix", show(values(prefix()).await?), want("3 2 1 of 3, more: false"))?;
        let two = prefix().with_limit(2);
        expect("limit", show(values(two).await?), want("3 2 of 3, more: true"))?;
        let sorted = prefix().with_sort(SortTarget::Value, SortOrder::Ascend);
        expect("by value", show(values(sorted).await?), want("1 2 3 of 3, more: false"))?;
        let counted = prefix().with_count_only();
        expect("count only", show(values(counted).await?), want(" of 3, more: false"))?;

        let options = DeleteOptions::new().with_prefix().with_prev_key();
        let gone = self.client.delete(self.key("r/"), Some(options)).await?;
        expect("deleted", gone.deleted(), 3)?;
        expect("deleted pairs", gone.prev_kvs().len(), 3)
    }

    async fn transactions(&mut self) -> Result<()> {
        println!("transactions");
        let key = self.key("txn");
        let create_once = || {
            Txn::new()
                .when([Compare::create_revision(key.clone(), CompareOp::Equal, 0)])
                .and_then([TxnOp::put(key.clone(), "created", None)])
                .or_else([TxnOp::get(key.clone(), None)])
        };
        expect("first", self.client.txn(create_once()).await?.succeeded(), true)?;
        let second = self.client.txn(create_once()).await?;
        expect("second", second.succeeded(), false)?;
        match &second.op_responses()[..] {
            [TxnOpResponse::Get(get)] => expect("sees", get.kvs()[0].value_str()?, "created")?,
            other => return Err(format!("not a get: {other:?}").into()),
        }
        let nested = Txn::new().and_then([TxnOp::txn(
            Txn::new()
                .when([Compare::value(key.clone(), CompareOp::Equal, "created")])
                .and_then([TxnOp::delete(key.clone(), None)]),
        )]);
        match &self.client.txn(nested).await?.op_responses()[..] {
            [TxnOpResponse::Txn(inner)] => expect("inner", inner.succeeded(), true)?,
            other => return Err(format!("not a transaction: {other:?}").into()),
        }
        expect("is gone", self.client.get(key, None).await?.count(), 0)
    }

    async fn watches(&mut self) -> Result<()> {
        println!("watches");
        let key = self.key("watched");
        let start = revision(self.client.put(key.clone(), "past", None).await?.header())?;
        let options = WatchOptions::new().with_start_revision(start).with_prev_key();
        let mut stream = self.client.watch(key.clone(), Some(options)).await?;
        let created = next(&mut stream).await?;
        expect("created", created.created(), true)?;
        let id = created.watch_id();
        self.client.put(key.clone(), "present", None).await?;
        self.client.delete(key.clone(), None).await?;
        let mut events = Vec::new();
        while events.len() < 3 {
            for event in next(&mut stream).await?.events() {
                let value = event.kv().map(|pair| pair.value_str().map(String::from));
                let before = event.prev_kv().map(|pair| pair.value_str().map(String::from));
                events.push((event.event_type(), value.transpose()?, before.transpose()?));
            }
        }
        let text = |text: &str| Some(text.to_string());
        let want = vec![
            (EventType::Put, text("past"), None),
            (EventType::Put, text("present"), text("past")),
            (EventType::Delete, text(""), text("present")),
        ];
        expect("events", events, want)?;

        stream.request_progress().await?;
        let progress = next(&mut stream).await?;
        expect("progress has no events", progress.events().len(), 0)?;
        expect("progress", revision(progress.header())? >= start + 2, true)?;
        stream.watch(self.key("other"), Some(WatchOptions::new())).await?;
        let second = next(&mut stream).await?;
        expect("a second watcher", second.created() && second.watch_id() != id, true)?;
        stream.cancel(id).await?;
        let cancelled = next(&mut stream).await?;
        expect("cancelled", (cancelled.canceled(), cancelled.watch_id()), (true, id))
    }

    async fn leases(&mut self) -> Result<()> {
        println!("leases");
        let key = self.key("leased");
        let granted = self.client.lease_grant(600, None).await?;
        let id = granted.id();
        expect("granted seconds", granted.ttl(), 600)?;
        self.client.put(key.clone(), "v", Some(PutOptions::new().with_lease(id))).await?;
        let (mut keeper, mut answers) = self.client.lease_keep_alive(id).await?;
        for _ in 0..2 {
            keeper.keep_alive().await?;
            let kept = timeout(PATIENCE, answers.message()).await??.ok_or("the stream ended")?;
            expect("kept", (kept.id(), kept.ttl()), (id, 600))?;
        }
        let options = LeaseTimeToLiveOptions::new().with_keys();
        let shown = self.client.lease_time_to_live(id, Some(options)).await?;
        expect("seconds left", (590..=600).contains(&shown.ttl()), true)?;
        let keys: Vec<_> = shown.keys().iter().map(|key| String::from_utf8_lossy(key)).collect();
        expect("keys", keys, vec![key.as_str().into()])?;
        let leases = self.client.leases().await?;
        expect("listed", leases.leases().iter().any(|lease| lease.id() == id), true)?;
        self.client.lease_revoke(id).await?;
        expect("its key is gone", self.client.get(key, None).await?.count(), 0)?;
        let shown = self.client.lease_time_to_live(id, None).await?;
        expect("seconds left", shown.ttl(), -1)
    }

    async fn errors(&mut self) -> Result<()> {
        println!("errors");
        let key = self.key("errors");
        let code = |error: &Error| match error {
            Error::GRpcStatus(status) => format!("{:?}: {}", status.code(), status.message()),
            other => other.to_string(),
        };
        let ahead = GetOptions::new().with_revision(i64::MAX);
        let error = self.client.get(key.clone(), Some(ahead)).await.err().ok_or("no error")?;
        let want = "OutOfRange: etcdserver: mvcc: required revision is a future revision";
        expect("future", code(&error), want.into())?;
        let error = self.client.lease_revoke(i64::MAX).await.err().ok_or("no error")?;
        let want = "NotFound: etcdserver: requested lease not found";
        expect("unknown lease", code(&error), want.into())?;
        let error = self.client.put("", "v", None).await.err().ok_or("no error")?;
        let want = "InvalidArgument: etcdserver: key is not provided";
        expect("empty key", code(&error), want.into())
    }

    async fn maintenance(&mut self) -> Result<()> {
        println!("maintenance");
        let status = self.client.status().await?;
        expect("has a version", status.version().starts_with("3."), true)?;
        expect("has a leader", status.leader() != 0, true)?;
        expect("has a size", status.db_size() > 0, true)?;
        let members = self.client.member_list().await?;
        let leads = members.members().iter().any(|member| member.id() == status.leader());
        expect("the leader is a member", leads, true)?;

        let now = revision(self.client.put(self.key("m"), "v", None).await?.header())?;
        expect("hash", self.client.hash_kv(now).await?.hash_revision(), now)?;
        let mut snapshot = self.client.snapshot().await?;
        let (mut bytes, mut left) = (0, 1);
        while let Some(part) = timeout(PATIENCE, snapshot.message()).await?? {
            bytes += part.blob().len();
            left = part.remaining_bytes();
        }
        expect("the snapshot is whole", (bytes > 0, left), (true, 0))?;
        self.client.compact(now, Some(CompactionOptions::new().with_physical())).await?;
        let early = GetOptions::new().with_revision(now - 1);
        let compacted = self.client.get(self.key("m"), Some(early)).await;
        expect("compacted", compacted.is_err(), true)?;
        self.client.defragment().await?;
        expect("still there", self.client.get(self.key("m"), None).await?.count(), 1)
    }

    async fn clean_up(&mut self) -> Result<()> {
        let options = DeleteOptions::new().with_prefix();
        self.client.delete(self.prefix.clone(), Some(options)).await?;
        Ok(())
    }
}

async fn next(stream: &mut WatchStream) -> Result<etcd_client::WatchResponse> {
    let answer = timeout(PATIENCE, stream.message()).await.map_err(|_| "the watch is silent")??;
    Ok(answer.ok_or("the watch ended")?)
}
