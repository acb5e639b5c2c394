//! A time server on loopback, which tells this machine's time (RFC 4330).

use std::{
    net::UdpSocket,
    thread,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

/// NTP counts from 1900.
const EPOCH_1900: u64 = 2_208_988_800;

/// Starts a time server at port 123. It ends with the test program.
///
/// # Panics
/// If the port is taken, or not for us.
pub fn start() {
    let socket = UdpSocket::bind("127.0.0.1:123").expect("port 123 of loopback is free, and ours (root)");
    thread::spawn(move || {
        let mut request = [0; 128];
        while let Ok((length, from)) = socket.recv_from(&mut request) {
            if length >= 48 {
                let _ = socket.send_to(&answer(&request[..48]), from);
            }
        }
    });
}

fn answer(request: &[u8]) -> [u8; 48] {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or(Duration::ZERO);
    let fraction = (u64::from(now.subsec_nanos()) << 32) / 1_000_000_000;
    let stamp = (((now.as_secs() + EPOCH_1900) << 32) | fraction).to_be_bytes();
    let mut answer = [0; 48];
    // No leap second, version 4, server; stratum 2; a precision of a microsecond.
    answer[..4].copy_from_slice(&[0x24, 2, 6, 0xec]);
    answer[12..16].copy_from_slice(b"LOCL");
    answer[16..24].copy_from_slice(&stamp);
    answer[24..32].copy_from_slice(&request[40..48]);
    answer[32..40].copy_from_slice(&stamp);
    answer[40..48].copy_from_slice(&stamp);
    answer
}
