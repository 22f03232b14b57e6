"""Request and reply over a transport: wire format, client, server, batching, deadlines."""
