"""The code that the tests share: servers, stores, proxies, fixtures and checks of invariants."""
