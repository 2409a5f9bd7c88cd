//! `twinward-mqttfuzz`: odd packets and bytes to the devices' door of a running hub, over real
//! connections, before and after the CONNECT; beside them a well-behaved device that must notice
//! nothing.
//!
//! Each input is followed by a ping, and the next one is sent when the hub has answered that, or on a
//! new connection when the hub has closed this one or waits for the rest of a packet. Whether the
//! hub has panicked is for whoever started it to see.
//!
//! Reading order: [`random`] → [`packets`] → here.

// It talks to a person on a terminal, or to the program that started it.
#![allow(clippy::print_stdout, clippy::print_stderr)]

mod packets;
mod random;

use std::net::Ipv4Addr;
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use bytes::BytesMut;
use clap::Parser;
use loadgen::devices::{self, Device};
use loadgen::hub::Hub;
use loadgen::mqtt::{Door, Session};
use loadgen::probe::Probe;
use loadgen::process;
use rmqtt_codec::v3::{Codec, Packet};
use service_kit::shutdown::ShutdownToken;
use service_kit::tasks::{OnFailure, Tasks};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::time::{Instant, timeout};
use tokio_rustls::client::TlsStream;
use tokio_util::codec::Decoder as _;

use random::Random;

/// Connections at once.
const AT_ONCE: u64 = 48;
/// Inputs on one connection at most; most end it sooner.
const INPUTS_MAX: usize = 24;
/// How long the hub may take for the answer to a ping until it is taken to wait for the rest of
/// what it was sent.
const ANSWERS_WITHIN: Duration = Duration::from_millis(150);
/// How long it may take for a connection; it may make an odd one wait for its refusal.
const CONNECTS_WITHIN: Duration = Duration::from_secs(20);
/// How long everything may take to end.
const ENDS_WITHIN: Duration = Duration::from_secs(30);
/// The share of inputs after which memory is looked at first: by then everything is there that is
/// made but once.
const FIRST_SHARE: u64 = 10;
/// How often the count is looked at.
const LOOK: Duration = Duration::from_millis(20);

/// Odd packets to a running hub, and a well-behaved device beside them
#[derive(Debug, Parser)]
#[command(name = "twinward-mqttfuzz")]
struct Arguments {
    /// File that `twinward up --env-file` has written
    #[arg(long, value_name = "FILE")]
    env_file: PathBuf,
    /// The process whose memory is looked at: the hub's
    #[arg(long, value_name = "PID")]
    pid: u32,
    /// Inputs: spoilt packets, proper ones, bytes
    #[arg(long, value_name = "N", default_value_t = 1_000_000, value_parser = clap::value_parser!(u64).range(1..))]
    count: u64,
    /// Where the generator starts
    #[arg(long, value_name = "N", default_value_t = 1)]
    seed: u64,
    /// Devices that do it
    #[arg(long, value_name = "N", default_value_t = 500, value_parser = clap::value_parser!(u32).range(1..=50_000))]
    devices: u32,
    /// Most mebibytes that the hub may grow by after a tenth of the inputs
    #[arg(long, value_name = "MIB", default_value_t = 128)]
    growth: u64,
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let outcome = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .context("cannot start the asynchronous runtime")
        .and_then(|runtime| runtime.block_on(run(&arguments)));
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

/// What came of the inputs. Written by all connections.
#[derive(Debug, Default)]
struct Counts {
    inputs: AtomicU64,
    connections: AtomicU64,
    let_in: AtomicU64,
    /// Pings that were answered after an input.
    answered: AtomicU64,
    /// Connections that the hub has closed after an input.
    closed: AtomicU64,
    /// Inputs after which the hub waited for more.
    waits: AtomicU64,
    /// Connections that could not be made.
    not_made: AtomicU64,
}

fn up(counter: &AtomicU64) {
    counter.fetch_add(1, Ordering::Relaxed);
}

fn get(counter: &AtomicU64) -> u64 {
    counter.load(Ordering::Relaxed)
}

async fn run(arguments: &Arguments) -> Result<()> {
    let hub = Hub::read(&arguments.env_file)?;
    let door = Door::of(&hub)?;
    let end = ShutdownToken::new();
    let tasks = Tasks::new(end.clone());
    let mut all = devices::register(&hub, "odd", arguments.devices + 1).await?;
    let probed = all.pop().context("no device to probe with")?;
    let probe = Probe::connect(&hub, &door, probed, &tasks).await?;
    let (counts, all) = (Arc::new(Counts::default()), Arc::new(all));
    let began = Instant::now();
    for row in 0..AT_ONCE {
        let one = Odd {
            door: door.clone(),
            devices: Arc::clone(&all),
            counts: Arc::clone(&counts),
            wanted: arguments.count,
            seed: arguments.seed,
        };
        tasks.spawn(format!("odd {row}"), OnFailure::Log, async move {
            one.run(row).await;
        });
    }
    let first = arguments.count / FIRST_SHARE;
    let (memory, measured) = {
        let memory = async {
            wait(|| get(&counts.inputs) >= first).await;
            let before = process::resident(arguments.pid)?;
            wait(|| get(&counts.inputs) >= arguments.count).await;
            anyhow::Ok((before, process::resident(arguments.pid)?))
        };
        let mut found = None;
        let measured = probe
            .measure(&tasks, async { found = Some(memory.await) })
            .await;
        (found.context("nothing was measured")??, measured)
    };
    let took = began.elapsed();
    end.trigger();
    // What is cut off here has nothing to hand back any more.
    let _ = tasks.drain(ENDS_WITHIN).await;
    let grown = memory.1.saturating_sub(memory.0) >> 20;
    println!(
        "{} inputs on {} connections in {:.0} s (seed {}); {} were let in, {} inputs were followed by an \
         answer, {} closed the connection, {} left the hub waiting for more",
        get(&counts.inputs),
        get(&counts.connections),
        took.as_secs_f64(),
        arguments.seed,
        get(&counts.let_in),
        get(&counts.answered),
        get(&counts.closed),
        get(&counts.waits),
    );
    println!(
        "memory of the hub: {} MiB after a tenth, {} MiB at the end",
        memory.0 >> 20,
        memory.1 >> 20
    );
    for (what, summary) in [("methods", measured.methods), ("changes", measured.changes)] {
        let summary = summary.with_context(|| format!("the device beside it had no {what}"))?;
        println!(
            "the device beside it: {} {what}, p50 {:.0} ms, p99 {:.0} ms, max {:.0} ms",
            summary.count,
            summary.p50.as_secs_f64() * 1000.0,
            summary.p99.as_secs_f64() * 1000.0,
            summary.max.as_secs_f64() * 1000.0
        );
    }
    ensure!(
        measured.errors.is_empty(),
        "the device beside it was not served: {:?}",
        measured.errors
    );
    // Else nothing was tried but the handshake.
    ensure!(
        get(&counts.let_in) > 0 && get(&counts.answered) > 0,
        "no odd device was let in"
    );
    ensure!(
        grown <= arguments.growth,
        "the hub has grown by {grown} MiB, and {} are allowed",
        arguments.growth
    );
    Ok(())
}

async fn wait(is_so: impl Fn() -> bool) {
    while !is_so() {
        tokio::time::sleep(LOOK).await;
    }
}

/// One row of odd devices.
struct Odd {
    door: Door,
    devices: Arc<Vec<Device>>,
    counts: Arc<Counts>,
    wanted: u64,
    seed: u64,
}

/// What the hub did after an input.
enum After {
    Answered,
    Closed,
    Waits,
}

impl Odd {
    async fn run(self, row: u64) {
        let mut random = Random::new(self.seed, row);
        while get(&self.counts.inputs) < self.wanted {
            // So many addresses that hardly any is made to wait for what another one did.
            let from = Ipv4Addr::new(127, 3, random.byte(), random.byte() | 1);
            up(&self.counts.connections);
            if random.one_in(50) {
                self.without_tls(&mut random, from).await;
                continue;
            }
            match timeout(CONNECTS_WITHIN, self.door.dial(from)).await {
                Ok(Ok(stream)) => self.with_tls(&mut random, stream).await,
                Ok(Err(_)) | Err(_) => up(&self.counts.not_made),
            }
        }
    }

    /// Bytes to a listener that waits for a handshake.
    async fn without_tls(&self, random: &mut Random, from: Ipv4Addr) {
        let Ok(mut tcp) = self.door.dial_tcp(from).await else {
            return up(&self.counts.not_made);
        };
        up(&self.counts.inputs);
        let mut bytes = random.bytes(300);
        if random.one_in(2) && bytes.len() > 5 {
            // The head of a handshake.
            bytes[..3].copy_from_slice(&[22, 3, 1]);
        }
        if tcp.write_all(&bytes).await.is_err() {
            return up(&self.counts.closed);
        }
        let mut answer = [0; 64];
        match timeout(ANSWERS_WITHIN, tcp.read(&mut answer)).await {
            Ok(_) => up(&self.counts.closed),
            Err(_) => up(&self.counts.waits),
        }
    }

    async fn with_tls(&self, random: &mut Random, mut stream: TlsStream<TcpStream>) {
        let device = random.of(&self.devices);
        let mut unread = BytesMut::new();
        let kept = *random.of(&[Session::Kept, Session::Clean]);
        let hello = self.door.hello(device, kept, 60);
        if random.one_in(3) {
            let bytes = packets::first(random, &hello);
            self.send(&mut stream, &mut unread, &bytes).await;
            return;
        }
        let hello = packets::encode(hello.into());
        let mut answer = [0; 4];
        let met = async {
            stream.write_all(&hello).await?;
            stream.read_exact(&mut answer).await
        };
        if !matches!(timeout(CONNECTS_WITHIN, met).await, Ok(Ok(_))) || answer[3] != 0 {
            return up(&self.counts.not_made);
        }
        up(&self.counts.let_in);
        for _ in 0..=random.below(INPUTS_MAX) {
            let bytes = packets::next(random, device.id());
            match self.send(&mut stream, &mut unread, &bytes).await {
                After::Answered => {}
                After::Closed | After::Waits => return,
            }
        }
    }

    /// Sends an input and a ping.
    async fn send(
        &self,
        stream: &mut TlsStream<TcpStream>,
        unread: &mut BytesMut,
        bytes: &[u8],
    ) -> After {
        up(&self.counts.inputs);
        let after = match timeout(ANSWERS_WITHIN, exchange(stream, unread, bytes)).await {
            Ok(true) => After::Answered,
            Ok(false) => After::Closed,
            Err(_) => After::Waits,
        };
        match after {
            After::Answered => up(&self.counts.answered),
            After::Closed => up(&self.counts.closed),
            After::Waits => up(&self.counts.waits),
        }
        after
    }
}

/// Whether the ping behind the bytes was answered; else the connection has ended.
async fn exchange(stream: &mut TlsStream<TcpStream>, unread: &mut BytesMut, bytes: &[u8]) -> bool {
    let written = async {
        stream.write_all(bytes).await?;
        stream
            .write_all(&packets::encode(Packet::PingRequest))
            .await?;
        stream.flush().await
    };
    if written.await.is_err() {
        return false;
    }
    let mut codec = Codec::default();
    loop {
        match codec.decode(unread) {
            Ok(Some((Packet::PingResponse, _))) => return true,
            Ok(Some(_)) => continue,
            Ok(None) => {}
            Err(_) => return false,
        }
        if !matches!(stream.read_buf(unread).await, Ok(1..)) {
            return false;
        }
    }
}
