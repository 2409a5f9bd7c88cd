//! What the machine is: distribution, kernel, hardware, memory and network interfaces.

use std::collections::BTreeMap;
use std::fs;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use jiff::Timestamp;
use posture::agent_config::SystemInformationConfiguration;
use posture::event::{NetworkInterface, SystemInformation as Snapshot};
use posture::{EventPayload, limits};

use super::machine::Machine;
use super::{Collector, Health, Observation, text};

/// Says at the start and at each interval what the machine is.
#[derive(Debug)]
pub(crate) struct SystemInformation {
    machine: Machine,
    settings: SystemInformationConfiguration,
    health: Health,
}

impl SystemInformation {
    pub(crate) fn new(machine: Machine, settings: SystemInformationConfiguration) -> Self {
        Self {
            machine,
            settings,
            health: Health::running(),
        }
    }

    fn read(&mut self) -> Snapshot {
        let release = self.os_release();
        let field = |name: &str| release.get(name).and_then(|value| text::name(value));
        let uname = self.machine.is_this().then(rustix::system::uname);
        let uname_text = |part: fn(&rustix::system::Uname) -> &std::ffi::CStr| {
            uname
                .as_ref()
                .and_then(|uname| text::name(&part(uname).to_string_lossy()))
        };
        // What DMI says comes first; the configuration fills in where there is no DMI.
        let dmi = |file: &str, configured: &Option<String>| {
            let told = self.machine.text(&format!("sys/class/dmi/id/{file}"));
            told.as_deref()
                .and_then(text::name)
                .or_else(|| configured.clone())
        };
        let settings = &self.settings;
        let kernel = self.machine.text("proc/sys/kernel/osrelease");
        let host = self.machine.text("proc/sys/kernel/hostname");
        let snapshot = Snapshot {
            host_name: host.as_deref().and_then(text::name),
            os_name: field("NAME"),
            os_version: field("VERSION_ID"),
            os_platform: Some("linux".to_owned()),
            os_architecture: uname_text(rustix::system::Uname::machine),
            kernel_version: kernel.as_deref().and_then(text::name),
            hardware_vendor: dmi("sys_vendor", &settings.hardware_vendor),
            hardware_model: dmi("product_name", &settings.hardware_model),
            hardware_serial_number: dmi("product_serial", &settings.hardware_serial_number),
            firmware_vendor: dmi("bios_vendor", &settings.firmware_vendor),
            firmware_version: dmi("bios_version", &settings.firmware_version),
            total_memory_kib: self.memory_kib(),
            interfaces: self.interfaces(),
        };
        self.health = if snapshot.os_name.is_none() && snapshot.kernel_version.is_none() {
            Health::degraded("neither /etc/os-release nor /proc/sys/kernel can be read")
        } else {
            Health::running()
        };
        snapshot
    }

    fn os_release(&self) -> BTreeMap<String, String> {
        let release = self
            .machine
            .text("etc/os-release")
            .or_else(|| self.machine.text("usr/lib/os-release"))
            .unwrap_or_default();
        release
            .lines()
            .filter_map(|line| line.split_once('='))
            .map(|(name, value)| {
                let value = value.trim().trim_matches(['"', '\'']);
                (name.trim().to_owned(), value.to_owned())
            })
            .collect()
    }

    fn memory_kib(&self) -> Option<u64> {
        let text = self.machine.text("proc/meminfo")?;
        let line = text
            .lines()
            .find_map(|line| line.strip_prefix("MemTotal:"))?;
        line.trim().strip_suffix("kB")?.trim().parse().ok()
    }

    fn interfaces(&self) -> Vec<NetworkInterface> {
        let mut addresses = self.addresses();
        let Ok(entries) = fs::read_dir(self.machine.path("sys/class/net")) else {
            return Vec::new();
        };
        let mut interfaces: Vec<_> = entries
            .flatten()
            .filter_map(|entry| {
                let name = entry.file_name().to_string_lossy().into_owned();
                let mac = self.machine.text(&format!("sys/class/net/{name}/address"));
                let mut found = addresses.remove(&name).unwrap_or_default();
                found.sort_unstable();
                found.dedup();
                found.truncate(limits::INTERFACE_ADDRESSES_MAX);
                let mac = mac.as_deref().and_then(text::name);
                Some(NetworkInterface {
                    name: text::name(&name)?,
                    mac,
                    addresses: found,
                })
            })
            .collect();
        interfaces.sort_unstable();
        interfaces.truncate(limits::INTERFACES_MAX);
        interfaces
    }

    /// Addresses by interface. IPv6 from its table; for IPv4 the kernel has no file that names the
    /// interface, so an address of the routing trie goes to the interface whose network holds it.
    fn addresses(&self) -> BTreeMap<String, Vec<IpAddr>> {
        let mut addresses: BTreeMap<String, Vec<IpAddr>> = BTreeMap::new();
        let table = self.machine.text("proc/net/if_inet6").unwrap_or_default();
        for line in table.lines() {
            let mut fields = line.split_whitespace();
            let (Some(digits), Some(name)) = (fields.next(), fields.nth(4)) else {
                continue;
            };
            if let Ok(bits) = u128::from_str_radix(digits, 16) {
                let address = IpAddr::V6(Ipv6Addr::from_bits(bits));
                addresses.entry(name.to_owned()).or_default().push(address);
            }
        }
        let networks = ipv4_networks(&self.machine.text("proc/net/route").unwrap_or_default());
        let trie = self.machine.text("proc/net/fib_trie").unwrap_or_default();
        for address in ipv4_local_addresses(&trie) {
            let name = if address.is_loopback() {
                Some("lo")
            } else {
                networks
                    .iter()
                    .filter(|network| address.to_bits() & network.mask == network.prefix)
                    .max_by_key(|network| network.mask)
                    .map(|network| network.interface.as_str())
            };
            if let Some(name) = name {
                addresses
                    .entry(name.to_owned())
                    .or_default()
                    .push(IpAddr::V4(address));
            }
        }
        addresses
    }
}

struct Network {
    interface: String,
    prefix: u32,
    mask: u32,
}

/// Networks that an interface reaches without a gateway.
fn ipv4_networks(route: &str) -> Vec<Network> {
    let number = |text: &str| u32::from_str_radix(text, 16).ok().map(u32::swap_bytes);
    route
        .lines()
        .skip(1)
        .filter_map(|line| {
            let fields: Vec<&str> = line.split_whitespace().collect();
            let (prefix, gateway) = (number(fields.get(1)?)?, number(fields.get(2)?)?);
            let mask = number(fields.get(7)?)?;
            (gateway == 0 && mask != 0).then(|| Network {
                interface: (*fields.first().unwrap_or(&"")).to_owned(),
                prefix,
                mask,
            })
        })
        .collect()
}

/// Addresses of this machine: in the trie, the line before `/32 host LOCAL` names one.
fn ipv4_local_addresses(trie: &str) -> Vec<Ipv4Addr> {
    let mut addresses = Vec::new();
    let mut last = None;
    for line in trie.lines() {
        let line = line.trim();
        if let Some(text) = line.strip_prefix("|-- ") {
            last = text.parse::<Ipv4Addr>().ok();
        } else if line == "/32 host LOCAL" {
            addresses.extend(last);
        }
    }
    addresses.sort_unstable();
    addresses.dedup();
    addresses
}

impl Collector for SystemInformation {
    fn observe(&mut self, _now: Timestamp, _out: &mut Vec<Observation>) {}

    fn snapshot(&mut self, now: Timestamp, out: &mut Vec<Observation>) {
        let payload = EventPayload::SystemInformation(Box::new(self.read()));
        out.push(Observation::routine(now, payload));
    }

    fn flush(&mut self, _out: &mut Vec<Observation>) {}

    fn health(&self) -> Health {
        self.health.clone()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::collectors::testing::{Fixture, at};

    fn read(machine: Machine, settings: SystemInformationConfiguration) -> Snapshot {
        let mut out = Vec::new();
        SystemInformation::new(machine, settings).snapshot(at(1), &mut out);
        match out.remove(0).payload {
            EventPayload::SystemInformation(snapshot) => *snapshot,
            other => panic!("not system information: {other:?}"),
        }
    }

    #[test]
    fn a_machine_of_files_is_described() {
        let machine = Fixture::new();
        machine.write(
            "etc/os-release",
            "NAME=\"Debian GNU/Linux\"\nVERSION_ID='12'\n",
        );
        machine.write("proc/sys/kernel/hostname", "edge-7\n");
        machine.write("proc/sys/kernel/osrelease", "6.1.0\n");
        machine.write(
            "proc/meminfo",
            "MemTotal:       24684084 kB\nMemFree: 1 kB\n",
        );
        machine.write("sys/class/dmi/id/sys_vendor", "Acme\n");
        machine.write("sys/class/net/eth0/address", "02:42:ac:11:00:02\n");
        machine.write("sys/class/net/lo/address", "00:00:00:00:00:00\n");
        machine.write(
            "proc/net/if_inet6",
            "00000000000000000000000000000001 01 80 10 80       lo\n",
        );
        machine.write(
            "proc/net/route",
            "Iface\tDestination\tGateway\tFlags\tRefCnt\tUse\tMetric\tMask\nx\neth0\t000011AC\t00000000\t0001\t0\t0\t0\t0000FFFF\n",
        );
        machine.write(
            "proc/net/fib_trie",
            "Local:\n  +-- 0.0.0.0/0\n     |-- 127.0.0.1\n        /32 host LOCAL\n     |-- 172.17.0.2\n        /32 host LOCAL\n     |-- 172.17.255.255\n        /32 link BROADCAST\n",
        );
        let settings = SystemInformationConfiguration {
            hardware_vendor: Some("configured".to_owned()),
            hardware_model: Some("Model T".to_owned()),
            ..SystemInformationConfiguration::default()
        };
        let found = read(machine.machine(), settings);
        assert_eq!(found.host_name.as_deref(), Some("edge-7"));
        assert_eq!(found.os_name.as_deref(), Some("Debian GNU/Linux"));
        assert_eq!(found.os_version.as_deref(), Some("12"));
        assert_eq!(found.kernel_version.as_deref(), Some("6.1.0"));
        assert_eq!(found.total_memory_kib, Some(24_684_084));
        assert_eq!(found.hardware_vendor.as_deref(), Some("Acme"));
        assert_eq!(found.hardware_model.as_deref(), Some("Model T"));
        let interfaces: Vec<_> = found
            .interfaces
            .iter()
            .map(|entry| {
                (
                    entry.name.as_str(),
                    entry.addresses.iter().map(ToString::to_string).collect(),
                )
            })
            .collect::<Vec<(_, Vec<String>)>>();
        assert_eq!(
            interfaces,
            [
                ("eth0", vec!["172.17.0.2".to_owned()]),
                ("lo", vec!["127.0.0.1".to_owned(), "::1".to_owned()]),
            ]
        );
    }

    #[test]
    fn this_machine_is_described() {
        let found = read(Machine::this(), SystemInformationConfiguration::default());
        assert!(found.kernel_version.is_some() && found.os_architecture.is_some());
        assert!(found.total_memory_kib.unwrap() > 0);
        let loopback = found
            .interfaces
            .iter()
            .find(|entry| entry.name == "lo")
            .unwrap();
        assert!(
            loopback
                .addresses
                .contains(&IpAddr::V4(Ipv4Addr::LOCALHOST)),
            "{loopback:?}"
        );
    }
}
