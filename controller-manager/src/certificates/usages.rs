//! What a certificate may be used for: the API's words as X.509 has them.

use knarr_x509::{CLIENT_AUTH, SERVER_AUTH};

/// Key usages by the number of their bit.
const KEY: [(&str, u16); 10] = [
    ("signing", 0),
    ("digital signature", 0),
    ("content commitment", 1),
    ("key encipherment", 2),
    ("data encipherment", 3),
    ("key agreement", 4),
    ("cert sign", 5),
    ("crl sign", 6),
    ("encipher only", 7),
    ("decipher only", 8),
];

/// Extended key usages, in the order in which a certificate names them.
const EXTENDED: [(&str, &[u64]); 13] = [
    ("any", &[2, 5, 29, 37, 0]),
    ("server auth", SERVER_AUTH),
    ("client auth", CLIENT_AUTH),
    ("code signing", &[1, 3, 6, 1, 5, 5, 7, 3, 3]),
    ("email protection", EMAIL),
    ("s/mime", EMAIL),
    ("ipsec end system", &[1, 3, 6, 1, 5, 5, 7, 3, 5]),
    ("ipsec tunnel", &[1, 3, 6, 1, 5, 5, 7, 3, 6]),
    ("ipsec user", &[1, 3, 6, 1, 5, 5, 7, 3, 7]),
    ("timestamping", &[1, 3, 6, 1, 5, 5, 7, 3, 8]),
    ("ocsp signing", &[1, 3, 6, 1, 5, 5, 7, 3, 9]),
    ("microsoft sgc", &[1, 3, 6, 1, 4, 1, 311, 10, 3, 3]),
    ("netscape sgc", &[2, 16, 840, 1, 113_730, 4, 1]),
];
const EMAIL: &[u64] = &[1, 3, 6, 1, 5, 5, 7, 3, 4];

/// Key usage (its first bit the highest) and extended key usages.
pub type Usages = (u16, Vec<&'static [u64]>);

/// Reads them; an unknown one is an error.
pub fn read(usages: &[String]) -> Result<Usages, String> {
    let known = |usage: &&String| KEY.iter().any(|(u, _)| u == usage) || EXTENDED.iter().any(|(u, _)| u == usage);
    let unknown: Vec<&String> = usages.iter().filter(|usage| !known(usage)).collect();
    if !unknown.is_empty() {
        return Err(format!("unrecognized usage values: {unknown:?}"));
    }
    let asked = |name: &str| usages.iter().any(|usage| usage == name);
    let key = KEY.iter().filter(|(name, _)| asked(name)).fold(0, |bits, (_, bit)| bits | 1 << (15 - bit));
    let mut extended: Vec<&'static [u64]> = EXTENDED.iter().filter(|(name, _)| asked(name)).map(|(_, id)| *id).collect();
    extended.dedup();
    Ok((key, extended))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn usages_are_read_in_order_and_once() {
        let list = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect::<Vec<_>>();
        let got = read(&list(&["s/mime", "email protection", "client auth", "key encipherment", "digital signature"]));
        assert_eq!(got, Ok((0b1010_0000 << 8, vec![CLIENT_AUTH, EMAIL])));
        assert_eq!(read(&list(&["flying"])), Err("unrecognized usage values: [\"flying\"]".to_owned()));
    }
}
