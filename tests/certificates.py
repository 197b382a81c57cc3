"""An authority and what it vouches for, made for a test."""

import datetime
import ipaddress

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from medray.pacs.tls import Tls


def issue(folder, *names):
    """Write an authority's certificate and one for each name, all for 127.0.0.1; return each as `Tls`."""
    folder.mkdir()
    authority_key = ec.generate_private_key(ec.SECP256R1())
    authority = _signed("authority", authority_key, "authority", authority_key)
    (folder / "authority.pem").write_bytes(authority.public_bytes(serialization.Encoding.PEM))
    made = []
    for name in names:
        key = ec.generate_private_key(ec.SECP256R1())
        certificate = _signed(name, key, "authority", authority_key)
        (folder / f"{name}.pem").write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
        plain = (serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
        (folder / f"{name}-key.pem").write_bytes(key.private_bytes(*plain))
        made.append(Tls(folder / f"{name}.pem", folder / f"{name}-key.pem", folder / "authority.pem"))
    return made


def _signed(name, key, issuer, issuer_key):
    now = datetime.datetime.now(datetime.UTC)
    own, other = (x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, text)]) for text in (name, issuer))
    address = x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))])
    builder = x509.CertificateBuilder().subject_name(own).issuer_name(other).public_key(key.public_key())
    builder = builder.serial_number(x509.random_serial_number()).not_valid_before(now - datetime.timedelta(hours=1))
    builder = builder.not_valid_after(now + datetime.timedelta(days=1)).add_extension(address, critical=False)
    is_authority = x509.BasicConstraints(ca=name == issuer, path_length=None)
    return builder.add_extension(is_authority, critical=True).sign(issuer_key, hashes.SHA256())
