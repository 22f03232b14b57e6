// Moleculer on Node, NATS or Redis by URL: node rpc_moleculer.cjs worker|caller URL
const { ServiceBroker } = require("moleculer");
const readline = require("node:readline");
const [role, url] = process.argv.slice(2);
const TIMEOUT = 5000;

async function load(broker, payload, concurrency, seconds) {
  const latencies = [];
  const errors = [];
  const cpu = process.cpuUsage();
  const start = performance.now();
  const end = start + seconds * 1000;
  async function loop() {
    let now = performance.now();
    while (now < end) {
      const before = now;
      try {
        await broker.call("bench.echo", { text: payload });
      } catch (error) {
        errors.push(String(error));
      }
      now = performance.now();
      latencies.push(now - before);
    }
  }
  await Promise.all(Array.from({ length: concurrency }, loop));
  const took = (performance.now() - start) / 1000;
  const used = process.cpuUsage(cpu);
  latencies.sort((a, b) => a - b);
  return {
    calls: latencies.length - errors.length,
    errors: errors.length,
    error: errors[0] || "",
    seconds: took,
    cpu: (used.user + used.system) / 1e6,
    p50: latencies[Math.floor(latencies.length / 2)],
    p99: latencies[Math.floor(latencies.length * 0.99)],
  };
}

async function main() {
  const broker = new ServiceBroker({ namespace: "js", nodeID: role, transporter: url, logger: false, requestTimeout: TIMEOUT });
  if (role === "worker") {
    broker.createService({ name: "bench", actions: { echo: (ctx) => ctx.params } });
    await broker.start();
    console.log("ready");
    return;
  }
  await broker.start();
  await broker.waitForServices("bench");
  console.log("ready");
  for await (const line of readline.createInterface({ input: process.stdin })) {
    const order = JSON.parse(line);
    const payload = "x".repeat(order.size);
    await load(broker, payload, order.concurrency, 0.15);
    console.log(JSON.stringify(await load(broker, payload, order.concurrency, order.seconds)));
  }
  process.exit(0);
}
main();
