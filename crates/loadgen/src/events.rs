//! Makes the events of simulated agents: of the sizes and kinds that a real agent sends most.

use jiff::Timestamp;
use wire::agent::v1 as agent;
use wire::agent::v1::security_event::Payload;

/// In every simulated agent's allowed list.
pub(crate) const ALLOWED_PORT: u32 = 22;
/// In none.
pub(crate) const UNEXPECTED_PORT: u32 = 31_337;

/// One event, still without a sequence.
fn event(now: Timestamp, payload: Payload) -> agent::SecurityEvent {
    agent::SecurityEvent {
        sequence: 0,
        observe_time: Some(wire::time::to_wire(now)),
        payload: Some(payload),
    }
}

/// What a busy machine sends: processes and connections, now and then a login or a file. `seed`
/// varies names and addresses, as they do on a real one.
pub(crate) fn mixture(seed: u32, count: u32, now: Timestamp) -> Vec<agent::SecurityEvent> {
    let payload = |number: u32| match number % 10 {
        0..=4 => process(number),
        5..=7 => connection(number),
        8 => login(number),
        _ => file(number),
    };
    let numbers = (0..count).map(|index| seed.wrapping_add(index));
    numbers.map(|number| event(now, payload(number))).collect()
}

/// The whole list of listening ports, with or without the unexpected one.
pub(crate) fn listening(unexpected: bool, now: Timestamp) -> Vec<agent::SecurityEvent> {
    let port = |port: u32, executable: &str| agent::ListeningPort {
        protocol: "tcp".to_owned(),
        address: "0.0.0.0".to_owned(),
        port,
        process_id: 700,
        executable: executable.to_owned(),
    };
    let mut ports = vec![port(ALLOWED_PORT, "/usr/sbin/sshd")];
    if unexpected {
        ports.push(port(UNEXPECTED_PORT, "/tmp/.x/nc"));
    }
    vec![event(
        now,
        Payload::ListeningPorts(agent::ListeningPorts { ports }),
    )]
}

fn process(number: u32) -> Payload {
    Payload::Process(agent::ProcessActivity {
        kind: agent::process_activity::Kind::Exec.into(),
        process_id: 1000 + number % 30_000,
        parent_process_id: 1,
        user_id: 33,
        user_name: "www-data".to_owned(),
        executable: "/usr/bin/python3.13".to_owned(),
        command_line: format!(
            "/usr/bin/python3.13 /srv/app/worker.py --job {}",
            number % 97
        ),
        hit_count: 1 + number % 3,
    })
}

fn connection(number: u32) -> Payload {
    Payload::Connection(agent::ConnectionActivity {
        direction: agent::connection_activity::Direction::Outbound.into(),
        protocol: "tcp".to_owned(),
        local_address: "10.0.0.17".to_owned(),
        local_port: 32_768 + number % 20_000,
        remote_address: format!("198.51.100.{}", number % 250),
        remote_port: 443,
        process_id: 1000,
        executable: "/usr/bin/curl".to_owned(),
        hit_count: 1,
    })
}

fn login(number: u32) -> Payload {
    Payload::Login(agent::LoginActivity {
        operation: agent::login_activity::Operation::LoginFailed.into(),
        user_name: "root".to_owned(),
        process_id: 900,
        terminal: "ssh:notty".to_owned(),
        remote_address: format!("203.0.113.{}", number % 250),
    })
}

fn file(number: u32) -> Payload {
    Payload::File(agent::FileActivity {
        kind: agent::file_activity::Kind::Modified.into(),
        path: format!("/etc/app/conf.d/{}.conf", number % 53),
        hit_count: 1,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_event_is_one_that_the_door_lets_in() {
        let now = Timestamp::from_second(1_800_000_000).unwrap();
        let all = [
            mixture(7, 40, now),
            listening(true, now),
            listening(false, now),
        ];
        for mut event in all.into_iter().flatten() {
            event.sequence = 1;
            let read = wire::events::event_from_wire(event).unwrap();
            read.validate().unwrap();
        }
    }
}
