//! Each fault is shown to happen, as often as asked for and no more: on one direction with virtual time, and through
//! real sockets to an echo.

use super::faults::{Direction, Faults, Tally};
use super::line::{HELD_MAX, Line, Packet};
use super::{Counts, Proxy};
use crate::cluster::wait_until;
use crate::sim::Rng;
use std::net::{SocketAddr, UdpSocket};
use std::time::{Duration, Instant};

const MS: Duration = Duration::from_millis(1);
const PACKETS: u64 = 10_000;

fn flow(port: u16) -> SocketAddr {
    SocketAddr::from(([127, 0, 0, 1], port))
}

fn packet(number: u64) -> Packet {
    Packet {
        flow: flow(1),
        bytes: number.to_be_bytes().repeat(125), // 1,000 bytes
    }
}

fn number(packet: &Packet) -> u64 {
    u64::from_be_bytes(*packet.bytes.first_chunk().unwrap())
}

/// Sends one packet per millisecond through a line; numbers and times (from the begin) of what comes out.
fn through(faults: Faults, packets: u64) -> (Vec<(u64, Duration)>, Tally) {
    let begin = Instant::now();
    let mut line = Line::new(Rng::new(7));
    line.set(faults);
    let mut out = Vec::new();
    let mut drain = |line: &mut Line, until: Instant| {
        while let Some(at) = line.deadline().filter(|at| *at <= until) {
            while let Some(packet) = line.due(at) {
                line.sent(packet.bytes.len(), true);
                out.push((number(&packet), at - begin));
            }
        }
    };
    for number in 0..packets {
        let now = begin + MS * u32::try_from(number).unwrap();
        drain(&mut line, now);
        line.take(now, packet(number));
        assert!(line.tally().adds_up(), "{:?}", line.tally());
    }
    drain(&mut line, begin + Duration::from_secs(1_000));
    assert!(
        line.tally().adds_up() && line.tally().waiting == 0,
        "{:?}",
        line.tally()
    );
    (out, line.tally())
}

fn about(found: u64, wanted: u64) -> bool {
    found * 10 > wanted * 9 && found * 10 < wanted * 11
}

#[test]
fn without_faults_everything_passes_at_once_and_in_order() {
    let (out, tally) = through(Faults::default(), PACKETS);
    let sent = |number: u64| (number, MS * u32::try_from(number).unwrap());
    assert!(out.iter().copied().eq((0..PACKETS).map(sent)));
    let all = Tally {
        received: PACKETS,
        forwarded: PACKETS,
        forwarded_bytes: PACKETS * 1_000,
        ..Tally::default()
    };
    assert_eq!(tally, all);
}

#[test]
fn loss_takes_its_share() {
    let (out, tally) = through(Faults::loss(0.2), PACKETS);
    assert!(about(tally.lost, PACKETS / 5), "{tally:?}");
    assert_eq!(out.len() as u64, PACKETS - tally.lost);
    assert!(out.is_sorted());
}

#[test]
fn the_same_seed_has_the_same_luck() {
    let faults = Faults {
        loss: 0.1,
        duplicate: 0.1,
        reorder: 0.1,
        jitter: 3 * MS,
        ..Faults::default()
    };
    assert_eq!(through(faults.clone(), 1_000), through(faults, 1_000));
}

#[test]
fn duplicates_come_twice() {
    let faults = Faults {
        duplicate: 0.1,
        ..Faults::default()
    };
    let (out, tally) = through(faults, PACKETS);
    assert!(about(tally.duplicated, PACKETS / 10), "{tally:?}");
    let twice = out.windows(2).filter(|pair| pair[0].0 == pair[1].0).count();
    assert_eq!(twice as u64, tally.duplicated);
}

#[test]
fn reordered_packets_are_overtaken_and_none_is_held_for_long() {
    let faults = Faults {
        reorder: 0.1,
        ..Faults::default()
    };
    let (out, tally) = through(faults, PACKETS);
    assert_eq!(out.len() as u64, PACKETS);
    assert!(about(tally.reordered, PACKETS / 10), "{tally:?}");
    let late = |(at, (number, _)): (usize, &(u64, Duration))| {
        out[..at].iter().rev().take(20).any(|(other, _)| other > number)
    };
    let overtaken = out.iter().enumerate().filter(|entry| late(*entry)).count();
    assert!(about(overtaken as u64, tally.reordered), "{overtaken}, {tally:?}");
    let held = out
        .iter()
        .map(|(number, at)| *at - MS * u32::try_from(*number).unwrap());
    assert!(held.max().unwrap() <= HELD_MAX);
}

#[test]
fn a_held_packet_that_nothing_overtakes_goes_on() {
    let faults = Faults {
        reorder: 1.0,
        ..Faults::default()
    };
    let (out, tally) = through(faults, 1);
    assert_eq!(out, [(0, HELD_MAX)]);
    assert_eq!((tally.reordered, tally.forwarded), (0, 1));
}

#[test]
fn packets_of_other_flows_do_not_count_as_overtaking() {
    let now = Instant::now();
    let mut line = Line::new(Rng::new(1));
    let mut faults = Faults {
        reorder: 1.0,
        ..Faults::default()
    };
    line.set(faults.clone());
    line.take(now, packet(0));
    faults.reorder = 0.0;
    line.set(faults);
    for number in 1..100 {
        let flow = flow(2);
        line.take(
            now,
            Packet {
                flow,
                ..packet(number)
            },
        );
    }
    assert_eq!(line.tally().reordered, 0);
    let out: Vec<u64> = std::iter::from_fn(|| line.due(now)).map(|p| number(&p)).collect();
    assert!(out.into_iter().eq(1..100));
    assert_eq!(line.due(now + HELD_MAX), Some(packet(0)));
}

#[test]
fn delay_and_jitter_are_kept_and_keep_the_order() {
    let faults = Faults {
        delay: 50 * MS,
        jitter: 10 * MS,
        ..Faults::default()
    };
    let (out, tally) = through(faults, PACKETS);
    assert_eq!((out.len() as u64, tally.delayed), (PACKETS, PACKETS));
    assert!(out.is_sorted());
    let took: Vec<Duration> = out
        .iter()
        .map(|(number, at)| *at - MS * u32::try_from(*number).unwrap())
        .collect();
    let (least, most) = (*took.iter().min().unwrap(), *took.iter().max().unwrap());
    assert!(least >= 50 * MS && most <= 60 * MS, "{least:?} to {most:?}");
    assert!(most - least > 5 * MS, "{least:?} to {most:?}");
}

#[test]
fn a_limited_wire_keeps_its_rate_and_drops_what_waits_too_long() {
    // One packet of 1,000 bytes per millisecond is offered, half of it fits.
    let faults = Faults {
        bytes_per_second: Some(500_000),
        ..Faults::default()
    };
    let (out, tally) = through(faults, PACKETS);
    assert!(about(tally.forwarded, PACKETS / 2), "{tally:?}");
    assert_eq!(tally.forwarded + tally.overflowed, PACKETS);
    let late = out
        .iter()
        .map(|(number, at)| *at - MS * u32::try_from(*number).unwrap());
    let most = late.max().unwrap();
    assert!(most > 190 * MS && most < 210 * MS, "{most:?}");
}

#[test]
fn a_cut_takes_what_is_on_its_way() {
    let now = Instant::now();
    let mut line = Line::new(Rng::new(1));
    line.set(Faults::delay(10 * MS));
    line.take(now, packet(0));
    line.set(Faults::cut());
    line.take(now, packet(1));
    line.set(Faults::default());
    line.take(now, packet(2));
    assert_eq!(line.due(now + 20 * MS), Some(packet(2)));
    assert_eq!(line.due(now + 20 * MS), None);
    assert_eq!(line.tally().cut, 2);
}

#[test]
#[should_panic(expected = "1.5")]
fn a_probability_beyond_one_is_refused() {
    Line::new(Rng::new(1)).set(Faults::loss(1.5));
}

/// A socket that sends every packet back, until it gets an empty one.
struct Echo {
    address: SocketAddr,
    thread: Option<std::thread::JoinHandle<()>>,
}

impl Echo {
    fn start() -> Echo {
        let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
        let address = socket.local_addr().unwrap();
        let thread = std::thread::spawn(move || {
            let mut buffer = [0; 2_000];
            while let Ok((length, from)) = socket.recv_from(&mut buffer) {
                if length == 0 {
                    return;
                }
                socket.send_to(&buffer[..length], from).unwrap();
            }
        });
        Echo {
            address,
            thread: Some(thread),
        }
    }
}

impl Drop for Echo {
    fn drop(&mut self) {
        client(self.address).send(&[]).unwrap();
        self.thread.take().unwrap().join().unwrap();
    }
}

fn client(to: SocketAddr) -> UdpSocket {
    let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
    socket.connect(to).unwrap();
    socket.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
    socket
}

/// Sends `count` packets, a few at a time, and waits until the proxy has seen each and all are through. What the proxy
/// did since it began, and the answers to these packets.
fn exchange(proxy: &Proxy, client: &UdpSocket, count: u64) -> (Counts, Vec<u64>) {
    let mut before = proxy.counts();
    let mut found = Vec::new();
    for number in 0..count {
        client.send(&number.to_be_bytes()).unwrap();
        if number % 32 == 31 || number + 1 == count {
            let now = settle(proxy, before.up.received + number % 32 + 1);
            found.extend(answers(client, now.down.forwarded - before.down.forwarded));
            before = now;
        }
    }
    (before, found)
}

/// Waits until `received` packets came in and all of them, and their echoes, have left.
fn settle(proxy: &Proxy, received: u64) -> Counts {
    wait_until("the proxy is through", || {
        let counts = proxy.counts();
        let done = counts.up.received == received && counts.up.waiting + counts.down.waiting == 0;
        done && counts.down.received == counts.up.forwarded
    });
    proxy.counts()
}

fn answers(client: &UdpSocket, count: u64) -> Vec<u64> {
    let mut buffer = [0; 8];
    (0..count)
        .map(|_| {
            client.recv(&mut buffer).unwrap();
            u64::from_be_bytes(buffer)
        })
        .collect()
}

#[test]
fn packets_pass_both_ways_and_each_client_has_its_own_flow() {
    let echo = Echo::start();
    let proxy = Proxy::start(echo.address, 1);
    let clients: Vec<UdpSocket> = (0..20).map(|_| client(proxy.address())).collect();
    for (name, client) in clients.iter().enumerate() {
        client.send(&(name as u64).to_be_bytes()).unwrap();
    }
    for (name, client) in clients.iter().enumerate() {
        assert_eq!(answers(client, 1), [name as u64]);
    }
    let counts = settle(&proxy, 20);
    assert_eq!(
        (counts.flows, counts.up.forwarded, counts.down.forwarded),
        (20, 20, 20)
    );
    assert_eq!(counts.up.forwarded_bytes, 160);
}

#[test]
fn faults_set_at_run_time_happen_in_their_direction_only() {
    let echo = Echo::start();
    let proxy = Proxy::start(echo.address, 3);
    let client = client(proxy.address());
    let faults = Faults {
        loss: 0.2,
        duplicate: 0.1,
        reorder: 0.1,
        delay: MS,
        jitter: MS,
        ..Faults::default()
    };
    proxy.set(Direction::Up, faults);
    let (counts, found) = exchange(&proxy, &client, 2_000);
    let up = counts.up;
    assert!(up.lost.abs_diff(400) < 100, "{up:?}");
    assert!(up.duplicated.abs_diff(160) < 60, "{up:?}");
    assert!(up.reordered > 80 && up.delayed > 1_500, "{up:?}");
    let down = counts.down;
    assert_eq!(down.received, down.forwarded, "no fault this way: {down:?}");
    assert_eq!(found.len() as u64, down.forwarded);
    assert!(!found.is_sorted());
    assert!(counts.up.adds_up() && counts.down.adds_up());
}

#[test]
fn a_cut_one_way_stops_that_way_and_heals() {
    let echo = Echo::start();
    let proxy = Proxy::start(echo.address, 3);
    let client = client(proxy.address());
    proxy.set(Direction::Down, Faults::cut());
    let (cut, _) = exchange(&proxy, &client, 10);
    assert_eq!((cut.up.forwarded, cut.down.cut, cut.down.forwarded), (10, 10, 0));
    proxy.cut();
    let (both, _) = exchange(&proxy, &client, 10);
    assert_eq!((both.up.since(&cut.up).cut, both.down.received), (10, 10));
    proxy.heal();
    let (healed, found) = exchange(&proxy, &client, 10);
    assert_eq!(healed.down.since(&both.down).forwarded, 10);
    assert_eq!(found, Vec::from_iter(0..10));
}

#[test]
fn a_delay_is_felt_by_a_round_trip() {
    let echo = Echo::start();
    let proxy = Proxy::start(echo.address, 3);
    let client = client(proxy.address());
    proxy.set_both(Faults::delay(30 * MS));
    let begun = Instant::now();
    client.send(&[0; 8]).unwrap();
    assert_eq!(answers(&client, 1), [0]);
    let took = begun.elapsed();
    assert!(took >= 60 * MS, "{took:?}");
}

#[test]
fn an_upstream_that_comes_later_or_again_is_reached() {
    let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
    let upstream = socket.local_addr().unwrap();
    drop(socket);
    let proxy = Proxy::start(upstream, 3);
    let client = client(proxy.address());
    client.send(&[1; 8]).unwrap();
    wait_until("it is taken", || proxy.counts().up.received == 1);
    let socket = UdpSocket::bind(upstream).unwrap();
    socket.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
    // The first packet may meet the news that nobody listened before.
    client.send(&[2; 8]).unwrap();
    client.send(&[2; 8]).unwrap();
    let mut buffer = [0; 8];
    assert_eq!(socket.recv(&mut buffer).unwrap(), 8);
    assert_eq!(buffer, [2; 8]);
}

#[test]
fn the_ports_are_free_when_it_is_dropped() {
    let echo = Echo::start();
    for seed in 0..50 {
        let proxy = Proxy::start(echo.address, seed);
        let client = client(proxy.address());
        client.send(&[0; 8]).unwrap();
        answers(&client, 1);
        let address = proxy.address();
        drop(proxy);
        UdpSocket::bind(address).expect("the port is free again");
    }
}
