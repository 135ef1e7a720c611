//! Ports that stay ours while a server is down.
//!
//! A port that the system hands out for "any" lies in the range from which it also takes the local
//! ports of outgoing connections: while a server is down, a connection of anybody's may sit on it.
//! So ports come from below that range, and a locked file keeps each from the other tests of this
//! machine until its server is gone.

use std::{
    fs::File,
    hash::{BuildHasher, RandomState},
    net::{Ipv4Addr, TcpListener},
};

use super::{ServiceError, package};

/// Below the system's own range, which begins at 32768.
const PORTS: std::ops::Range<u16> = 21_000..31_000;

/// A port of 127.0.0.1 that no other test takes while this value lives.
#[derive(Debug)]
pub(super) struct Port {
    pub(super) number: u16,
    _lock: File,
}

impl Port {
    /// A port on which nothing listens.
    pub(super) fn reserve() -> Result<Self, ServiceError> {
        let folder = package::cache_folder()?.join("ports");
        std::fs::create_dir_all(&folder).map_err(ServiceError::at(&folder))?;
        let count = PORTS.end - PORTS.start;
        let first = (RandomState::new().hash_one(0) % u64::from(count)) as u16;
        for step in 0..count {
            let number = PORTS.start + (first + step) % count;
            let path = folder.join(number.to_string());
            let lock = File::create(&path).map_err(ServiceError::at(&path))?;
            let is_free = || TcpListener::bind((Ipv4Addr::LOCALHOST, number)).is_ok();
            if lock.try_lock().is_ok() && is_free() {
                return Ok(Self { number, _lock: lock });
            }
        }
        let error = std::io::Error::from(std::io::ErrorKind::AddrInUse);
        Err(ServiceError::System { what: format!("finding a port in {PORTS:?}"), error })
    }
}
