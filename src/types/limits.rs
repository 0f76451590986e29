//! Every bound in one place, checked against each other at compile time.
//!
//! A queue, batch, retry or message without a limit here is a bug. Where etcd has the same limit
//! the number is etcd's.

use std::time::Duration;

/// Largest request a client may send, unless `--max-request-bytes` says otherwise.
pub const REQUEST_BYTES_MAX: usize = 1_572_864;
/// The most `--max-request-bytes` may say: a request must fit the frames between members.
pub const REQUEST_BYTES_CEILING: usize = 32 * 1024 * 1024;
/// What gRPC framing may add to a request before it is refused unread.
pub const REQUEST_OVERHEAD_BYTES: usize = 512 * 1024;
/// Operations in one transaction, unless `--max-txn-ops` says otherwise.
pub const TXN_OPS_MAX: usize = 128;
/// Longest TTL of a lease in seconds.
pub const LEASE_TTL_MAX: i64 = 9_000_000_000;
/// Backend quota when the flag is 0.
pub const QUOTA_BYTES_DEFAULT: i64 = 2 * 1024 * 1024 * 1024;

/// Entries a member may be behind between commit and apply before it refuses proposals.
pub const APPLY_BACKLOG_ENTRIES_MAX: u64 = 5_000;
/// Inputs that may wait for the node loop: proposals, reads, messages.
pub const NODE_QUEUE_MAX: usize = 8_192;
/// Inputs the node loop takes in one turn.
pub const NODE_BATCH_MAX: usize = 1_024;
/// Messages with other members' proposals held while there is no leader to take them.
pub const FORWARDED_HELD_MAX: usize = 256;
/// Bytes of entries in one write to the log.
pub const LOG_BATCH_BYTES_MAX: usize = 8 * 1024 * 1024;
/// Largest frame of the log, which holds one such write with its framing.
pub const LOG_FRAME_BYTES_MAX: usize = 256 * 1024 * 1024;
/// Size at which a file of the log is reserved.
pub const LOG_SEGMENT_BYTES: u64 = 64 * 1024 * 1024;
/// Committed entries that may wait for the apply loop.
pub const APPLY_QUEUE_MAX: usize = 64;
/// Bytes of log entries kept in memory for slow followers.
pub const LOG_MEMORY_BYTES_MAX: usize = 16 * 1024 * 1024;
/// Messages waiting for one peer; past it they are dropped, Raft repeats them.
pub const PEER_QUEUE_MAX: usize = 4_096;
/// Bytes of Raft entries in one message.
pub const RAFT_MESSAGE_BYTES_MAX: u64 = 1024 * 1024;
/// Raft messages in flight to one follower.
pub const RAFT_INFLIGHT_MAX: usize = 512;
/// Bytes of messages waiting for one peer; past it they are dropped, unless the queue is empty.
pub const PEER_QUEUE_BYTES_MAX: usize = 64 * 1024 * 1024;
/// Largest frame between peers.
pub const PEER_FRAME_BYTES_MAX: usize = 64 * 1024 * 1024;
/// Bytes a peer connection reads at once.
pub const PEER_READ_BUFFER_BYTES: usize = 64 * 1024;
/// Payloads up to this are copied through the connection's buffers, larger ones go around them.
pub const PEER_COPIED_PAYLOAD_BYTES_MAX: usize = 32 * 1024;
/// Bytes of waiting messages put into one write.
pub const PEER_WRITE_BATCH_BYTES: usize = 128 * 1024;
/// Requests to one peer that wait for their answer, and requests of one peer we work on.
pub const PEER_REQUESTS_MAX: usize = 256;
/// Answers and pongs that wait to be written on one accepted connection.
pub const PEER_REPLY_QUEUE_MAX: usize = 64;
/// Connections accepted from peers that may be open at once.
pub const PEER_CONNECTIONS_MAX: usize = 256;
/// Accepted connections that have not said yet who they are; past it the oldest is closed.
pub const PEER_HANDSHAKES_MAX: usize = 32;
/// Different complaints about callers that are remembered so as not to repeat them in the log.
pub const PEER_COMPLAINTS_MAX: usize = 128;
/// Bytes in one piece of a snapshot on the wire.
pub const SNAPSHOT_CHUNK_BYTES: usize = 64 * 1024;
/// Largest frame on a snapshot's connection: a piece from a sender that cuts bigger ones, or the
/// header.
pub const SNAPSHOT_FRAME_BYTES_MAX: usize = 1024 * 1024;
/// Pieces of a snapshot received and not yet taken.
pub const SNAPSHOT_PIECES_IN_FLIGHT_MAX: usize = 4;

/// Event batches that may wait for the watch hub.
pub const HUB_QUEUE_MAX: usize = 4_096;
/// Responses that may wait in one watch stream before its watchers fall back to reading history.
pub const WATCH_STREAM_QUEUE_MAX: usize = 1_024;
/// Recent events the hub keeps to serve watchers that lag a little.
pub const WATCH_RECENT_EVENTS_MAX: usize = 16_384;
/// Bytes of those events.
pub const WATCH_RECENT_BYTES_MAX: usize = 8 * 1024 * 1024;
/// Bytes that may wait in one watch stream, one response more at most.
pub const WATCH_STREAM_QUEUE_BYTES_MAX: usize = 4 * 1024 * 1024;
/// Revisions in one response of a watcher that catches up (etcd: watchBatchMaxRevs).
pub const WATCH_BATCH_REVISIONS_MAX: usize = 1_000;
/// Bytes of events from which such a response takes in no further revision.
pub const WATCH_BATCH_BYTES_MAX: usize = 4 * 1024 * 1024;
/// Revisions (of the recent log: events) read in one round of catching up.
pub const WATCH_WINDOW_REVISIONS_MAX: usize = 4_096;
/// Watchers served by one round (etcd: maxWatchersPerSync), about.
pub const WATCH_ROUND_WATCHERS_MAX: usize = 512;
/// Of those, from one stream.
pub const WATCH_ROUND_STREAM_WATCHERS_MAX: usize = 128;
/// Streams looked at by one round.
pub const WATCH_ROUND_STREAMS_MAX: usize = 256;
/// Watch streams open at once: a guard of memory, far beyond what connections allow.
pub const WATCH_STREAMS_MAX: usize = 1_000_000;
/// Watchers on one stream: a guard of memory.
pub const WATCH_STREAM_WATCHERS_MAX: usize = 1_000_000;
/// Watchers on all streams: a guard of memory, at 100 to 260 bytes each.
pub const WATCHERS_MAX: usize = 10_000_000;

/// Keys a range collects under one hold of the store's lock.
pub const RANGE_CHUNK_KEYS: usize = 1_000;

/// Memory for records of keys' latest versions, unless the options say otherwise.
pub const STORE_CACHE_BYTES: usize = 64 * 1024 * 1024;
/// Memory redb may use for pages of the file, unless the options say otherwise.
pub const STORE_PAGE_CACHE_BYTES: usize = 32 * 1024 * 1024;
/// What a version counts for beside its record: its revision's key, checksum and place in a page.
pub const STORE_RECORD_OVERHEAD_BYTES: usize = 32;
/// What a cached record costs beside its bytes: the allocations around it.
pub const STORE_CACHED_RECORD_OVERHEAD_BYTES: usize = 112;
/// Compaction hashes remembered, newest first out (etcd: hashStorageMaxSize).
pub const STORE_COMPACTION_HASHES_MAX: usize = 10;
/// Versions sorted at once when a store is opened; 64 bytes of memory each.
pub const STORE_LOAD_BATCH_ROWS: usize = 512 * 1024;
/// Bytes set aside on the disk before a flush begins, beside those it writes.
pub const STORE_FLUSH_ROOM_BYTES: u64 = 8 * 1024 * 1024;
/// Bytes that stay set aside between flushes, so that deletes can be flushed on a full disk.
pub const STORE_SPARE_BYTES: u64 = 16 * 1024 * 1024;
/// Bytes of a snapshot written into a new store file by one transaction.
pub const STORE_RESTORE_BATCH_BYTES: usize = 8 * 1024 * 1024;

/// Leases revoked by one log entry.
pub const LEASE_REVOKE_BATCH_MAX: usize = 500;
/// Leases checkpointed by one log entry.
pub const LEASE_CHECKPOINT_BATCH_MAX: usize = 1_000;

/// How long a request may take before it is answered with a timeout: etcd's 5 s + 2 elections.
pub fn request_timeout(election: Duration) -> Duration {
    Duration::from_secs(5) + 2 * election
}

/// How often an unanswered read index is asked again (etcd: readIndexRetryTime).
pub const READ_INDEX_RETRY: Duration = Duration::from_millis(500);

const _: () = assert!(RAFT_MESSAGE_BYTES_MAX as usize <= PEER_FRAME_BYTES_MAX);
const _: () = assert!(REQUEST_BYTES_MAX < LOG_BATCH_BYTES_MAX);
const _: () = assert!(STORE_FLUSH_ROOM_BYTES < STORE_SPARE_BYTES);
const _: () = assert!(2 * LOG_BATCH_BYTES_MAX <= LOG_FRAME_BYTES_MAX);
const _: () = assert!(LOG_FRAME_BYTES_MAX < u32::MAX as usize);
const _: () = assert!(2 * LOG_BATCH_BYTES_MAX as u64 <= LOG_SEGMENT_BYTES);
const _: () = assert!(REQUEST_BYTES_MAX <= REQUEST_BYTES_CEILING);
const _: () = assert!(REQUEST_BYTES_CEILING + REQUEST_OVERHEAD_BYTES < PEER_FRAME_BYTES_MAX);
const _: () = assert!(REQUEST_BYTES_MAX < WATCH_RECENT_BYTES_MAX);
const _: () = assert!(WATCH_BATCH_REVISIONS_MAX <= WATCH_WINDOW_REVISIONS_MAX);
const _: () = assert!(WATCH_STREAM_WATCHERS_MAX <= WATCHERS_MAX);
const _: () = assert!(WATCHERS_MAX < u32::MAX as usize);
const _: () = assert!(NODE_BATCH_MAX <= NODE_QUEUE_MAX);
const _: () = assert!(PEER_FRAME_BYTES_MAX <= PEER_QUEUE_BYTES_MAX);
const _: () = assert!(PEER_FRAME_BYTES_MAX <= u32::MAX as usize);
// A frame header and a payload that is copied fit into a read buffer together.
const _: () = assert!(PEER_COPIED_PAYLOAD_BYTES_MAX + 64 <= PEER_READ_BUFFER_BYTES);
const _: () = assert!(SNAPSHOT_CHUNK_BYTES <= SNAPSHOT_FRAME_BYTES_MAX);
const _: () = assert!(SNAPSHOT_FRAME_BYTES_MAX <= PEER_FRAME_BYTES_MAX);
