//! Writes `src/proto/*.rs` from `proto/*.proto`.
//!
//! The generated code is committed, so a user's build needs neither protoc nor a generator. Run
//! `cargo run --manifest-path proto/gen/Cargo.toml` from the repository's root after a change;
//! `.ci/run` does it too and fails when the result differs from what is committed.
//!
//! Some fields hold a message that the server keeps in encoded form (a stored pair, a change
//! event). They are generated as plain `bytes`: on the wire a nested message and a byte string
//! look the same, and the server can hand the stored bytes to the socket without decoding them.

use prost_types::field_descriptor_proto::Type;
use std::path::Path;

/// Message fields that are carried as already encoded bytes: (message, field).
const ENCODED: [(&str, &str); 4] = [
    ("RangeResponse", "kvs"),
    ("PutResponse", "prev_kv"),
    ("DeleteRangeResponse", "prev_kvs"),
    ("WatchResponse", "events"),
];

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..").canonicalize()?;
    let files = ["kv.proto", "auth.proto", "rpc.proto", "health.proto", "log.proto"];
    let mut set = protox::compile(files, [root.join("proto")])?;
    let messages = set.file.iter_mut().flat_map(|file| &mut file.message_type);
    for message in messages {
        let name = message.name.clone().unwrap_or_default();
        for field in &mut message.field {
            if ENCODED.contains(&(name.as_str(), field.name())) {
                field.set_type(Type::Bytes);
                field.type_name = None;
            }
        }
    }
    // Doc comments of the proto files are for their readers; rustdoc would read them as Markdown.
    for file in &mut set.file {
        file.source_code_info = None;
    }
    let out = root.join("src/proto");
    tonic_prost_build::configure()
        .bytes(".")
        .build_transport(false)
        .out_dir(&out)
        .emit_rerun_if_changed(false)
        .compile_fds(set)?;
    Ok(())
}
