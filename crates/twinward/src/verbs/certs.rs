//! `twinward certs`: certificates for a start.

#![allow(
    clippy::doc_markdown,
    reason = "comments on arguments are help texts, which show backticks as they are"
)]

use std::fmt::Write as _;
use std::path::PathBuf;

use clap::{Args, Subcommand};
use service_kit::error::chain;
use twin::IdentityKey;

use crate::certs::{Authority, CertError};
use crate::exit::Kind;
use crate::failure::Failure;
use crate::output::{self, Output};

/// What can be done about certificates.
#[derive(Debug, Subcommand)]
pub(crate) enum CertsCommand {
    /// Make an authority, and a server and client certificates signed by it
    Init(InitArgs),
    /// Make the certificate of a device or module, signed by an authority for devices
    Device(DeviceArgs),
}

/// Arguments of `certs device`.
#[derive(Debug, Args)]
#[command(
    after_help = "The authority is made if there is none. It is not the one of `certs init`: whoever \
                        has a certificate of it is the device that the certificate names. Ingestion \
                        trusts it by `device_ca_file`, and the device is to be registered with \
                        `--auth ca`.\n\n\
                        Examples:\n  \
                        twinward certs device cam-1\n  \
                        twinward certs device cam-1/DefenderIotMicroAgent --dir /etc/twinward/devices"
)]
pub(crate) struct DeviceArgs {
    /// The device, or DEVICE/MODULE
    #[arg(value_name = "DEVICE[/MODULE]", value_parser = IdentityKey::parse_path)]
    identity: IdentityKey,
    /// Where the authority and the files are
    #[arg(long, value_name = "DIR", default_value = "device-certs")]
    dir: PathBuf,
    /// Name of the files [default: the identity, with '_' for '/' and whatever files should not have]
    #[arg(long, value_name = "NAME", value_parser = file_name)]
    file: Option<String>,
}

/// Arguments of `certs init`.
#[derive(Debug, Args)]
#[command(
    after_help = "The authority stays when the command runs again, and so does a server \
                        certificate that has the names; client certificates are made anew. Keys \
                        are for their owner alone.\n\n\
                        Examples:\n  \
                        twinward certs init\n  \
                        twinward certs init --dir /etc/twinward/certs --name hub.example.net \
                        --name 192.0.2.7 --client alice"
)]
pub(crate) struct InitArgs {
    /// Where the files go
    #[arg(long, value_name = "DIR", default_value = "certs")]
    dir: PathBuf,
    /// Name or address of the server, as others reach it; may be repeated [default: localhost,
    /// 127.0.0.1 and ::1]
    #[arg(long = "name", value_name = "NAME")]
    names: Vec<String>,
    /// Common name of a client certificate, which is also the name of its files; may be repeated
    /// [default: client]
    #[arg(long = "client", value_name = "NAME", value_parser = file_name)]
    clients: Vec<String>,
}

/// Runs a verb.
pub(crate) fn run(command: CertsCommand, output: &Output) -> Result<(), Failure> {
    match command {
        CertsCommand::Init(args) => init(args, output),
        CertsCommand::Device(args) => device(args, output),
    }
}

fn device(args: DeviceArgs, output: &Output) -> Result<(), Failure> {
    let cannot = |error: CertError| {
        Failure::new(Kind::Failed, "cannot make the certificate").because(chain(&error))
    };
    let identity = args.identity.to_string();
    let plain = |letter: char| match letter {
        'a'..='z' | 'A'..='Z' | '0'..='9' | '-' | '_' | '.' => letter,
        _ => '_',
    };
    let file = match args.file {
        Some(file) => file,
        None => file_name(&identity.chars().map(plain).collect::<String>()).map_err(|why| {
            Failure::new(
                Kind::Usage,
                format!("no file can be called as {identity}: {why}"),
            )
            .advise("name it with --file")
        })?,
    };
    let authority = Authority::open(&args.dir, output.now()).map_err(cannot)?;
    let files = authority.device(&identity, &file).map_err(cannot)?;
    output::write(&format!(
        "authority  {}\ndevice     {}  {}\n",
        authority.ca_file().display(),
        files.cert.display(),
        files.key.display()
    ))
}

fn init(args: InitArgs, output: &Output) -> Result<(), Failure> {
    let cannot = |error: CertError| {
        Failure::new(Kind::Failed, "cannot make the certificates").because(chain(&error))
    };
    let authority = Authority::open(&args.dir, output.now()).map_err(cannot)?;
    let names = default(args.names, &["localhost", "127.0.0.1", "::1"]);
    let server = authority.server(&names).map_err(cannot)?;
    let mut text = format!(
        "authority  {}\nserver     {}  {}\n",
        authority.ca_file().display(),
        server.cert.display(),
        server.key.display()
    );
    for name in default(args.clients, &["client"]) {
        let client = authority.client(&name).map_err(cannot)?;
        // Writing into a string cannot fail.
        let _ = writeln!(
            text,
            "client     {}  {}",
            client.cert.display(),
            client.key.display()
        );
    }
    output::write(&text)
}

fn default(given: Vec<String>, otherwise: &[&str]) -> Vec<String> {
    if given.is_empty() {
        otherwise.iter().map(|name| (*name).to_owned()).collect()
    } else {
        given
    }
}

/// A name that files of ours may have, and that is none of those that are there already.
fn file_name(text: &str) -> Result<String, String> {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.');
    if text.is_empty() || text.starts_with('.') || !text.bytes().all(plain) {
        return Err(
            "allowed are letters, digits, '-', '_' and '.', not at the beginning".to_owned(),
        );
    }
    if matches!(text, "ca" | "server") {
        return Err("it is the name of another file".to_owned());
    }
    Ok(text.to_owned())
}
