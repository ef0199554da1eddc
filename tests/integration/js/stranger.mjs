// A js-libp2p peer that is no member of the shoal. Argument: the agent's multiaddr with /p2p.
// Prints one JSON object: what it could do and what it was refused.
import { noise } from '@chainsafe/libp2p-noise'
import { yamux } from '@chainsafe/libp2p-yamux'
import { identify } from '@libp2p/identify'
import { ping } from '@libp2p/ping'
import { tcp } from '@libp2p/tcp'
import { multiaddr } from '@multiformats/multiaddr'
import { createLibp2p } from 'libp2p'

const address = multiaddr(process.argv[2])
const bound = () => ({ signal: AbortSignal.timeout(15_000) })
const node = await createLibp2p({
  transports: [tcp()],
  connectionEncrypters: [noise()],
  streamMuxers: [yamux()],
  services: { identify: identify(), ping: ping() }
})
const result = {}

// Hello: [100, certificate (none), boot (16 bytes), version], behind its 4-byte length.
const hello = Uint8Array.from([0x84, 0x18, 100, 0x40, 0x50, ...new Array(16).fill(7), 0x62, 0x6a, 0x73])
const length = new Uint8Array(4)
new DataView(length.buffer).setUint32(0, hello.length)

async function speak (protocol, ...chunks) {
  try {
    const stream = await node.dialProtocol(address, protocol, bound())
    for (const chunk of chunks) stream.send(chunk)
    const received = []
    for await (const chunk of stream) received.push(...chunk.subarray())
    return { received: Buffer.from(received).toString('hex') }
  } catch (error) {
    return { refused: error.name }
  }
}

result.roundTripMs = await node.services.ping.ping(address, bound())
const connection = node.getConnections()[0]
result.encryption = connection.encryption
result.multiplexer = connection.multiplexer
const identified = await node.services.identify.identify(connection, bound())
result.protocols = identified.protocols
result.listenAddrs = identified.listenAddrs.map(String)
result.join = await speak('/shoal/join/1', Uint8Array.from([0, 0, 0, 1, 0xf6]))
result.archive = await speak('/shoal/archive/1', Uint8Array.from([0, 0, 0, 1, 0xf6]))
result.gossip = await speak('/meshsub/1.1.0', Uint8Array.from([2, 0x0a, 0]))
result.message = await speak('/shoal/msg/1', length, hello)
while (node.getConnections().length > 0) await new Promise(resolve => setTimeout(resolve, 20))
result.roundTripAgainMs = await node.services.ping.ping(address, bound())
await node.stop()
console.log(JSON.stringify(result))
