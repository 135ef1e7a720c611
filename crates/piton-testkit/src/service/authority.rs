//! An authority of our own and a certificate that it signed for the server.
//!
//! A self-signed certificate would not do: strict clients, rustls among them, refuse to take a
//! certificate for its own authority.

use std::{
    fs::{OpenOptions, Permissions},
    io::Write,
    os::unix::fs::{OpenOptionsExt, PermissionsExt},
    path::Path,
};

use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair};

use super::{ServiceError, process::Account};

/// The authority's certificate, which clients verify the server's with.
pub(super) const AUTHORITY: &str = "ca.crt";
/// The server's certificate, for `localhost` and 127.0.0.1.
pub(super) const CERTIFICATE: &str = "server.crt";
/// The server's key.
pub(super) const KEY: &str = "server.key";

/// Writes all three into a folder. The account may read the key, nobody else.
pub(super) fn write(folder: &Path, account: Option<Account>) -> Result<(), ServiceError> {
    let made = make().map_err(std::io::Error::other);
    let [authority, certificate, key] = made.map_err(ServiceError::doing("making certificates"))?;
    for (name, text) in [(AUTHORITY, authority), (CERTIFICATE, certificate), (KEY, key)] {
        let path = folder.join(name);
        let file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&path);
        let mut file = file.map_err(ServiceError::at(&path))?;
        file.write_all(text.as_bytes()).map_err(ServiceError::at(&path))?;
        if name != KEY {
            let open = Permissions::from_mode(0o644);
            file.set_permissions(open).map_err(ServiceError::at(&path))?;
        }
        Account::give(account, &path)?;
    }
    Ok(())
}

fn make() -> Result<[String; 3], rcgen::Error> {
    let mut authority = CertificateParams::default();
    authority.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    authority.distinguished_name.push(DnType::CommonName, "Piton's tests");
    let authority_key = KeyPair::generate()?;
    let authority_certificate = authority.self_signed(&authority_key)?;
    let issuer = Issuer::new(authority, authority_key);

    let mut server = CertificateParams::new(["localhost".to_owned(), "127.0.0.1".to_owned()])?;
    server.distinguished_name.push(DnType::CommonName, "localhost");
    let key = KeyPair::generate()?;
    let certificate = server.signed_by(&key, &issuer)?;
    Ok([authority_certificate.pem(), certificate.pem(), key.serialize_pem()])
}
