//! Files that people hand in: read whole, within a limit, `-` being standard input.

use std::fs::File;
use std::io::{self, Read};
use std::path::Path;

use crate::exit::Kind;
use crate::failure::Failure;

/// Bytes of a file that is read: a thousand policies. More is a mistake in the name.
const BYTES_MAX: u64 = 8 << 20;

/// Reads a text file.
pub(crate) fn read(path: &Path) -> Result<String, Failure> {
    let standard_input = path == Path::new("-");
    let name = if standard_input {
        "standard input".to_owned()
    } else {
        path.display().to_string()
    };
    let read = if standard_input {
        read_all(io::stdin().lock())
    } else {
        File::open(path).and_then(read_all)
    };
    let text = read.map_err(|error| {
        let kind = match error.kind() {
            io::ErrorKind::NotFound => Kind::NotFound,
            _ => Kind::Failed,
        };
        Failure::new(kind, format!("cannot read {name}")).because(error)
    })?;
    if text.len() as u64 > BYTES_MAX {
        return Err(Failure::new(Kind::Invalid, format!("{name} is too large"))
            .because(format!("allowed are {BYTES_MAX} bytes")));
    }
    Ok(text)
}

fn read_all(source: impl Read) -> io::Result<String> {
    let mut text = String::new();
    // One more than allowed, so that the caller can tell.
    source.take(BYTES_MAX + 1).read_to_string(&mut text)?;
    Ok(text)
}
