"""The operations of an administrator: bootstrap, policies, inspection and the doctor."""
