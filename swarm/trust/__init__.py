"""Who is who, and who said what: the CA, certificates, join tokens, identities and signed statements."""
