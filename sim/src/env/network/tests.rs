//! What connections promise while the network is at its worst.

use super::stream::SimListener;
use super::*;
use crate::env::test::{NETWORK, simulated};
use quorate::env::{Listener, Network};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

const ONE: Machine = Machine(1);
const TWO: Machine = Machine(2);
const SECOND: Duration = Duration::from_secs(1);

/// Two machines; the second listens.
struct Bench {
    switch: Switch,
    trace: Trace,
    one: SimNetwork,
    listener: SimListener,
}

impl Bench {
    async fn new(knobs: NetworkKnobs) -> Bench {
        let trace = Trace::new(false);
        let switch = Switch::new(trace.clone(), Streams::new(1), knobs);
        madsim::task::spawn(switch.clone().pump());
        let (one, two) = (switch.boot(ONE), switch.boot(TWO));
        let listener = two.bind("10.0.0.2:80").await.expect("the port is free");
        Bench { switch, trace, one, listener }
    }

    async fn connection(&mut self) -> (SimStream, SimStream) {
        let (ours, theirs) = tokio::join!(self.one.connect("10.0.0.2:80"), self.listener.accept());
        (ours.expect("it listens"), theirs.expect("it listens").0)
    }

    /// Seconds since the test began.
    fn now(&self) -> f64 {
        self.trace.now().as_secs_f64()
    }
}

fn bench<T, F: Future<Output = T>>(knobs: NetworkKnobs, test: impl FnOnce(Bench) -> F) -> T {
    simulated(1, async { test(Bench::new(knobs).await).await })
}

/// Bytes that differ from their neighbours.
fn pattern(count: usize) -> Vec<u8> {
    let mut random = Random::new(count as u64);
    (0..count).map(|_| random.number(256) as u8).collect()
}

/// Sends in the background; the stream is given back when all is sent.
fn send(mut stream: SimStream, bytes: Vec<u8>) -> madsim::task::JoinHandle<SimStream> {
    madsim::task::spawn(async move {
        stream.write_all(&bytes).await.expect("the connection lasts");
        stream
    })
}

async fn receive(stream: &mut SimStream, count: usize) -> Vec<u8> {
    let mut bytes = vec![0; count];
    stream.read_exact(&mut bytes).await.expect("the connection lasts");
    bytes
}

async fn is_silent(stream: &mut SimStream, time: Duration) -> bool {
    tokio::select! {
        biased;
        _ = stream.read_u8() => false,
        () = madsim::time::sleep(time) => true,
    }
}

#[test]
fn bytes_arrive_in_order_and_once_whatever_is_lost_late_or_cut_in_pieces() {
    let knobs = NetworkKnobs {
        latency_us: 20_000,
        tail_one_in: 5,
        tail_us: 300_000,
        write_bytes_max: 3_000,
        pipe_bytes_max: 10_000,
    };
    bench(knobs, async |mut bench| {
        bench.switch.set_loss(ONE, TWO, 20);
        let (ours, mut theirs) = bench.connection().await;
        let bytes = pattern(200_000);
        let sending = send(ours, bytes.clone());
        for turn in 0..20 {
            let place = turn * 10_000;
            assert_eq!(receive(&mut theirs, 10_000).await, bytes[place..place + 10_000]);
            // In the middle the link is cut, slowed, and mended in turns.
            bench.switch.set_link(ONE, TWO, turn % 3 != 0);
            bench.switch.set_delay(ONE, TWO, SECOND * (turn % 2) as u32);
            madsim::time::sleep(SECOND).await;
            bench.switch.set_link(ONE, TWO, true);
        }
        drop(sending.await.expect("it sends all"));
        assert_eq!(theirs.read(&mut [0]).await.expect("closed in order"), 0);
    });
}

#[test]
fn what_is_lost_comes_after_a_retransmission_timeout() {
    bench(NETWORK, async |mut bench| {
        let (ours, mut theirs) = bench.connection().await;
        bench.switch.set_loss(ONE, TWO, 50);
        let (mut ours, mut late) = (ours, 0);
        for _ in 0..100 {
            let start = bench.now();
            ours.write_all(b"x").await.expect("it lasts");
            receive(&mut theirs, 1).await;
            let took = bench.now() - start;
            // 200 ms, 600 ms, 1400 ms ... more than the latency.
            let losses = ((took + 0.2) / 0.2).log2().floor();
            let expected = 0.2 * (losses.exp2() - 1.0);
            assert!((0.0..0.006).contains(&(took - expected)), "{took}");
            late += u32::from(losses > 0.0);
        }
        assert!((30..70).contains(&late), "{late}");
    });
}

#[test]
fn a_narrow_link_takes_its_time_and_stops_the_writer() {
    let knobs = NetworkKnobs { pipe_bytes_max: 4_000, ..NETWORK };
    bench(knobs, async |mut bench| {
        let (ours, mut theirs) = bench.connection().await;
        bench.switch.set_rate(ONE, TWO, Some(10_000));
        let start = bench.now();
        let sending = send(ours, pattern(100_000));
        madsim::time::sleep(SECOND * 5).await;
        assert!(!sending.is_finished(), "nobody reads");
        receive(&mut theirs, 100_000).await;
        let took = bench.now() - start;
        // 10 s, headers, and the 5 s in which one pipe's worth was sent.
        assert!((14.0..17.0).contains(&took), "{took}");
    });
}

#[test]
fn connections_share_a_narrow_link_and_what_waits_goes_on_once_it_is_wide() {
    bench(NETWORK, async |mut bench| {
        let (one, mut its) = bench.connection().await;
        let (other, mut others) = bench.connection().await;
        bench.switch.set_rate(ONE, TWO, Some(1_000));
        let start = bench.now();
        let first = send(one, pattern(10_000));
        madsim::time::sleep(SECOND / 10).await;
        let second = send(other, pattern(10_000));
        receive(&mut its, 10_000).await;
        let took = bench.now() - start;
        assert!((10.0..12.0).contains(&took), "{took}");
        bench.switch.set_rate(ONE, TWO, None);
        receive(&mut others, 10_000).await;
        let took = bench.now() - start;
        assert!(took < 12.0, "it would be 20: {took}");
        drop((first.await, second.await));
    });
}

#[test]
fn delays_add_to_the_latency() {
    bench(NETWORK, async |mut bench| {
        let (mut ours, mut theirs) = bench.connection().await;
        bench.switch.set_delay(ONE, TWO, SECOND);
        let start = bench.now();
        ours.write_all(b"x").await.expect("it lasts");
        receive(&mut theirs, 1).await;
        theirs.write_all(b"y").await.expect("it lasts");
        receive(&mut ours, 1).await;
        let took = bench.now() - start;
        assert!((1.0..1.02).contains(&took), "one way is slow: {took}");
    });
}

#[test]
fn nobody_is_told_of_a_cut_link_and_what_it_held_comes_when_tcp_next_tries() {
    bench(NETWORK, async |mut bench| {
        let (mut ours, mut theirs) = bench.connection().await;
        bench.switch.set_link(ONE, TWO, false);
        ours.write_all(b"abc").await.expect("it believes so");
        madsim::time::sleep(SECOND).await;
        ours.write_all(b"def").await.expect("it believes so");
        assert!(is_silent(&mut theirs, SECOND * 4).await);
        theirs.write_all(b"x").await.expect("the way back is another link");
        receive(&mut ours, 1).await;
        let mended = bench.now();
        bench.switch.set_link(ONE, TWO, true);
        ours.write_all(b"ghi").await.expect("it lasts");
        assert_eq!(receive(&mut theirs, 9).await, b"abcdefghi");
        // Tries 0.2, 0.6, 1.4, 3.0 and 6.2 s after it was first sent.
        let waited = bench.now() - mended;
        assert!((0.9..1.3).contains(&waited), "{waited}");
    });
}

#[test]
fn healing_lets_go_of_everything_at_once() {
    bench(NETWORK, async |mut bench| {
        let (mut ours, mut theirs) = bench.connection().await;
        bench.switch.set_link(ONE, TWO, false);
        bench.switch.set_loss(TWO, ONE, 100);
        bench.switch.set_delay(TWO, ONE, SECOND * 100);
        ours.write_all(b"abc").await.expect("it believes so");
        theirs.write_all(b"xyz").await.expect("it believes so");
        assert!(is_silent(&mut theirs, SECOND * 40).await);
        let mended = bench.now();
        bench.switch.heal();
        assert_eq!(receive(&mut theirs, 3).await, b"abc");
        assert_eq!(receive(&mut ours, 3).await, b"xyz");
        assert!(bench.now() - mended < 0.05);
    });
}

#[test]
fn after_long_silence_one_end_gives_up_and_the_other_stays_half_open() {
    bench(NETWORK, async |mut bench| {
        let (mut ours, mut theirs) = bench.connection().await;
        bench.switch.set_link(ONE, TWO, false);
        ours.write_all(b"abc").await.expect("it believes so");
        let error = ours.read_u8().await.expect_err("the system gives up");
        assert_eq!(error.kind(), ErrorKind::TimedOut);
        assert!((20.0..901.0).contains(&bench.now()), "{}", bench.now());
        assert_eq!(ours.write_all(b"d").await.expect_err("gone").kind(), ErrorKind::TimedOut);
        bench.switch.set_link(ONE, TWO, true);
        assert!(is_silent(&mut theirs, SECOND * 1000).await, "it is not told");
        theirs.write_all(b"x").await.expect("it believes so");
        let error = theirs.read_u8().await.expect_err("nobody knows it there");
        assert_eq!(error.kind(), ErrorKind::ConnectionReset);
    });
}

#[test]
fn a_reset_ends_all_connections_between_two_machines_and_no_others() {
    bench(NETWORK, async |mut bench| {
        let (mut ours, mut theirs) = bench.connection().await;
        let three = bench.switch.boot(Machine(3));
        let (third, its) = tokio::join!(three.connect("10.0.0.2:80"), bench.listener.accept());
        let (mut third, mut its) = (third.expect("it listens"), its.expect("it listens").0);
        ours.write_all(b"lost").await.expect("it lasts");
        assert_eq!(bench.switch.reset_between(TWO, ONE), 1);
        for stream in [&mut ours, &mut theirs] {
            let error = stream.read_u8().await.expect_err("reset");
            assert_eq!(error.kind(), ErrorKind::ConnectionReset);
            assert!(stream.write_all(b"x").await.is_err());
        }
        third.write_all(b"y").await.expect("it lasts");
        assert_eq!(receive(&mut its, 1).await, b"y");
        let (mut ours, mut theirs) = bench.connection().await;
        ours.write_all(b"again").await.expect("it lasts");
        assert_eq!(receive(&mut theirs, 5).await, b"again");
    });
}

#[test]
fn a_killed_process_closes_its_connections_after_what_it_sent() {
    bench(NETWORK, async |mut bench| {
        let (mut ours, mut theirs) = bench.connection().await;
        theirs.write_all(b"last").await.expect("it lasts");
        bench.switch.close_all(TWO);
        assert_eq!(receive(&mut ours, 4).await, b"last");
        let error = ours.read_u8().await.expect_err("reset");
        assert_eq!(error.kind(), ErrorKind::ConnectionReset);
        let refused = bench.one.connect("10.0.0.2:80").await.err().expect("nobody listens");
        assert_eq!(refused.kind(), ErrorKind::ConnectionRefused);
    });
}

#[test]
fn a_machine_without_power_says_nothing_until_it_is_back_and_asked() {
    bench(NETWORK, async |mut bench| {
        let (mut ours, theirs) = bench.connection().await;
        bench.switch.power_off(TWO);
        drop(theirs);
        ours.write_all(b"abc").await.expect("it believes so");
        assert!(is_silent(&mut ours, SECOND * 10).await);
        let back = bench.now();
        bench.switch.boot(TWO);
        let error = ours.read_u8().await.expect_err("the new boot knows nothing of it");
        assert_eq!(error.kind(), ErrorKind::ConnectionReset);
        // Tried 6.2 s after it was sent, and again after 12.6 s.
        assert!((2.0..3.0).contains(&(bench.now() - back)), "{}", bench.now());
    });
}

#[test]
fn connecting_over_a_cut_link_is_tried_again_and_again() {
    bench(NETWORK, async |mut bench| {
        bench.switch.set_link(ONE, TWO, false);
        let (switch, trace) = (bench.switch.clone(), bench.trace.clone());
        let connecting = madsim::task::spawn({
            let one = bench.one.clone();
            async move {
                let outcome = one.connect("10.0.0.2:80").await.map(drop);
                (outcome, trace.now().as_secs_f64())
            }
        });
        madsim::time::sleep(SECOND * 5).await;
        switch.set_link(ONE, TWO, true);
        bench.listener.accept().await.expect("it comes");
        let (outcome, at) = connecting.await.expect("it ends");
        outcome.expect("it listens");
        // Tried at 0, 1, 3 and 7 s.
        assert!((7.0..7.1).contains(&at), "{at}");
    });
}

#[test]
fn a_reader_who_sleeps_stops_the_writer() {
    let knobs = NetworkKnobs { pipe_bytes_max: 1_000, ..NETWORK };
    bench(knobs, async |mut bench| {
        let (mut ours, mut theirs) = bench.connection().await;
        let mut sent = 0;
        while let Ok(count) = tokio::select! {
            biased;
            count = ours.write(&[7; 300]) => count,
            () = madsim::time::sleep(SECOND) => Err(ErrorKind::TimedOut.into()),
        } {
            sent += count;
        }
        assert_eq!(sent, 1_000);
        receive(&mut theirs, 600).await;
        assert_eq!(ours.write(&[7; 700]).await.expect("room again"), 600);
    });
}

#[test]
fn connections_that_both_ends_dropped_are_forgotten() {
    bench(NETWORK, async |mut bench| {
        for _ in 0..10 {
            let (ours, theirs) = bench.connection().await;
            drop(ours);
            madsim::time::sleep(SECOND).await;
            drop(theirs);
            madsim::time::sleep(SECOND).await;
        }
        let state = bench.switch.state();
        assert!(state.pipes.iter().all(Option::is_none) && state.due.is_empty());
    });
}

#[test]
fn the_same_seed_gives_the_same_arrivals() {
    let run = |seed| {
        let knobs = NetworkKnobs { latency_us: 50_000, write_bytes_max: 700, ..NETWORK };
        simulated(1, async {
            let trace = Trace::new(false);
            let switch = Switch::new(trace.clone(), Streams::new(seed), knobs);
            madsim::task::spawn(switch.clone().pump());
            let (one, two) = (switch.boot(ONE), switch.boot(TWO));
            let mut listener = two.bind("10.0.0.2:80").await.expect("the port is free");
            let (ours, theirs) = tokio::join!(one.connect("10.0.0.2:80"), listener.accept());
            let (ours, mut theirs) = (ours.expect("it listens"), theirs.expect("it listens").0);
            let sending = send(ours, pattern(20_000));
            receive(&mut theirs, 20_000).await;
            drop(sending.await);
            trace.summary()
        })
    };
    assert_eq!(run(3), run(3));
    assert_ne!(run(3), run(4));
}
