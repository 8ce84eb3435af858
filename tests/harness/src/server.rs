//! A file on the host's loopback over HTTP, for guests to fetch through the emulator's user network.

use std::io::{BufRead, BufReader, Write};
use std::net::{TcpListener, TcpStream};
use std::thread;

use anyhow::{Context, Result};
use sha2::{Digest, Sha256};

/// A file that is served until the process ends.
pub struct ServedFile {
    /// The port on the loopback address.
    pub port: u16,
    /// The SHA-256 of the content, in hexadecimal.
    pub sha256: String,
}

/// Serves `len` bytes of a fixed pseudo-random sequence at any path.
///
/// # Errors
/// No port.
pub fn serve(len: usize) -> Result<ServedFile> {
    let content = pseudo_random(len);
    let sha256 = sha256(&content);
    let listener = TcpListener::bind("127.0.0.1:0").context("no port to serve a file on")?;
    let port = listener.local_addr()?.port();
    thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            // A guest that goes away in the middle is its own test's matter.
            let _ = answer(stream, &content);
        }
    });
    Ok(ServedFile { port, sha256 })
}

fn answer(mut stream: TcpStream, content: &[u8]) -> std::io::Result<()> {
    let mut lines = BufReader::new(stream.try_clone()?).lines();
    while lines
        .next()
        .transpose()?
        .is_some_and(|line| !line.is_empty())
    {}
    write!(
        stream,
        "HTTP/1.0 200 OK\r\nContent-Type: application/octet-stream\r\nContent-Length: {}\r\n\r\n",
        content.len()
    )?;
    stream.write_all(content)
}

/// A linear congruential sequence: incompressible enough that a repeated or lost packet shows.
fn pseudo_random(len: usize) -> Vec<u8> {
    let mut x: u64 = 1;
    std::iter::repeat_with(|| {
        x = x
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        x.to_be_bytes()[0]
    })
    .take(len)
    .collect()
}

/// Returns the SHA-256 of `bytes`, in hexadecimal.
#[must_use]
pub fn sha256(bytes: &[u8]) -> String {
    let digest = Sha256::digest(bytes);
    digest.iter().map(|b| format!("{b:02x}")).collect()
}
