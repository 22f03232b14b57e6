"""The scripts that keep the records and their index, a hash: id → tag and end of the lease, ms by the server's clock.

Who reads the index tells the tags of what it knows. It is told, a byte each, how much of these leases is left, and the
records of the others. So a cluster at rest sends no records, and a read is three commands to the server, whatever the
number of members.
"""

from base64 import urlsafe_b64encode
from hashlib import blake2b

from catga.node import NodeInfo


def tag(node: NodeInfo) -> str:
    """8 characters that stand for this version of the record, whatever its load: two clash once in 2⁴⁸ times."""
    version = f"{node.incarnation} {node.sequence} {node.node_id}"
    return urlsafe_b64encode(blake2b(version.encode(), digest_size=6).digest()).decode()


# MGET takes what is no string for nothing, which is older than every record, as is what is no record, or has an
# incarnation that is NaN or beyond all.
_STORED = """
local stored = redis.call('MGET', KEYS[1])[1]
local incarnation, sequence = -1, -1
local ok, record = pcall(cjson.decode, stored)
if ok and type(record) == 'table' and type(record.incarnation) == 'number' and record.incarnation < 2^53 - 2^32 then
  incarnation, sequence = record.incarnation, tonumber(record.sequence) or 0
end
"""

_NOW = """
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
"""

# A record with its lease; an older one never replaces a newer one, which is returned instead.
# Keys: record, index, channel (if it is news). Arguments: record, lease in ms, incarnation, sequence, id, tag, force.
STORE = (
    _STORED
    + """
local mine = tonumber(ARGV[3])
local newer = incarnation > mine or (incarnation == mine and sequence > tonumber(ARGV[4]))
if newer and ARGV[7] == '' then return stored end
"""
    + _NOW
    + """
redis.call('HSET', KEYS[2], ARGV[5], string.format('%s %.0f', ARGV[6], now + ARGV[2]))
redis.call('SET', KEYS[1], ARGV[1], 'PX', ARGV[2])
if KEYS[3] then redis.call('PUBLISH', KEYS[3], ARGV[1]) end
return false
"""
)

# A record and its place in the index, unless they are of a newer version; and the news of it.
# Keys: record, index, channel. Arguments: news, incarnation, sequence, id.
REMOVE = (
    _STORED
    + """
local ended = tonumber(ARGV[2])
if incarnation < ended or (incarnation == ended and sequence <= tonumber(ARGV[3])) then
  redis.call('DEL', KEYS[1])
  redis.call('HDEL', KEYS[2], ARGV[4])
end
redis.call('PUBLISH', KEYS[3], ARGV[1])
"""
)

# What is left of the leases of those whose tags are given: a byte each, 1 to 255 for nothing to all of it, 0 for who is
# not there. Then id, record and remaining milliseconds (-1: unknown) of each of the others. The index is rid of those
# that expired or have no record, unless the server takes no writes now.
# Key: index. Arguments: tags, the reader's lease in ms.
READ = (
    _NOW
    + """
local ttl, place, left = tonumber(ARGV[2]), {}, {}
for i = 1, #ARGV[1] / 8 do
  place[string.sub(ARGV[1], 8 * i - 7, 8 * i)] = i
  left[i] = '\\0'
end
local found, gone, ids, keys, rests = {}, {}, {}, {}, {}
local index = redis.call('HGETALL', KEYS[1])
for i = 1, #index, 2 do
  local tag, ends = string.match(index[i + 1], '^(........) (%d+)$')
  local rest = tag and math.min(ends - now, ttl) or -1
  if tag and rest <= 0 then
    gone[#gone + 1] = index[i]
  elseif place[tag] then
    left[place[tag]] = string.char(1 + math.floor(254 * rest / ttl))
  else
    ids[#ids + 1], keys[#keys + 1], rests[#rests + 1] = index[i], KEYS[1] .. ':' .. index[i], rest
  end
end
found[1] = table.concat(left)
for first = 1, #keys, 1000 do
  local records = redis.call('MGET', unpack(keys, first, math.min(first + 999, #keys)))
  for i, record in ipairs(records) do
    local at = first + i - 1
    if record then
      found[#found + 1], found[#found + 2], found[#found + 3] = ids[at], record, rests[at]
    else
      gone[#gone + 1] = ids[at]
    end
  end
end
for first = 1, #gone, 1000 do
  redis.pcall('HDEL', KEYS[1], unpack(gone, first, math.min(first + 999, #gone)))
end
return found
"""
)
