//! Real servers as tests get them.
#![cfg(unix)]
#![allow(clippy::unwrap_used, clippy::panic, reason = "a test fails by panicking")]

mod cut;
mod mysql;
mod postgres;

use std::{net::TcpStream, path::Path, sync::Arc};

use rustls::{
    ClientConfig, ClientConnection, RootCertStore,
    pki_types::{CertificateDer, ServerName, pem::PemObject},
};

/// The TLS handshake of a client that trusts this authority, or nobody.
fn handshake(stream: &mut TcpStream, trusted: Option<&Path>) -> std::io::Result<()> {
    let mut roots = RootCertStore::empty();
    roots.add_parsable_certificates(
        trusted.map(|path| CertificateDer::from_pem_file(path).unwrap()),
    );
    let config = ClientConfig::builder().with_root_certificates(roots).with_no_client_auth();
    let name = ServerName::try_from("127.0.0.1").unwrap();
    let mut tls = ClientConnection::new(Arc::new(config), name).unwrap();
    while tls.is_handshaking() {
        tls.complete_io(stream)?;
    }
    Ok(())
}
