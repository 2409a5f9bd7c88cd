//! `twinward certs`: certificates for a start.

#![allow(
    clippy::doc_markdown,
    reason = "comments on arguments are help texts, which show backticks as they are"
)]

use std::fmt::Write as _;
use std::path::PathBuf;

use clap::{Args, Subcommand};
use service_kit::error::chain;

use crate::certs::{Authority, CertError};
use crate::exit::Kind;
use crate::failure::Failure;
use crate::output::{self, Output};

/// What can be done about certificates.
#[derive(Debug, Subcommand)]
pub(crate) enum CertsCommand {
    /// Make an authority, and a server and client certificates signed by it
    Init(InitArgs),
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
    }
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
