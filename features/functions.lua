#!lua name=headrace_4

-- The write path on the server, run in isolation. It knows slots, not features: Python derives from the schema where
-- to add and what to push, and features/state.py is the reference this agrees with bit for bit.
--
-- Invariant: every decode and every check comes before the first write, and the first write is the only one that can
-- still fail (on a key of the wrong type). So a failure has written nothing. `allow-oom` is not set: without memory a
-- function does not start.
--
-- Errors begin with HRSCHEMA, HRCORRUPT, HRCONFLICT, HRMOVED or HRREADER; everything else is the server's own. The number in
-- the names is raised with every change of arguments or layout, so that two releases can share a server.

local LISTS_BYTES = 10

local function hex(bytes)
  return (bytes:reverse():gsub('.', function(byte) return string.format('%02x', byte:byte()) end))
end

local function whole(number) return string.format('%.0f', number) end

local function too_short(wanted, state)
  return redis.error_reply(string.format('HRCORRUPT user state: expected at least %d bytes, got %d', wanted, #state))
end

-- Cut state into counter block, lengths, entries, context and attributes; an error reply in their place if it does not parse.
local function split(state, header, block_bytes)
  local lists = #header + block_bytes
  local lengths = lists + LISTS_BYTES
  if #state < lengths then return too_short(lengths, state) end
  if state:sub(1, #header) ~= header then
    return redis.error_reply(string.format(
      'HRSCHEMA user state: written as format %d under schema %s, expected %d under %s; '
        .. 'migrate it or bring that schema back',
      state:byte(), hex(state:sub(2, #header)), header:byte(), hex(header:sub(2))))
  end
  local n_recent, n_bytes, n_context = struct.unpack('<HI4I4', state, lists + 1)
  local entries = lengths + 2 * n_recent
  local context = entries + n_bytes
  local attributes = context + n_context
  if #state < attributes then return too_short(attributes, state) end
  return nil, state:sub(#header + 1, lists), state:sub(lengths + 1, entries), state:sub(entries + 1, context),
    state:sub(context + 1, attributes), state:sub(attributes + 1)
end

local function join(header, block, lengths, entries, context, attributes)
  local lists = struct.pack('<HI4I4', #lengths / 2, #entries, #context)
  return header .. block .. lists .. lengths .. entries .. context .. attributes
end

local function decays(half_lives_ms, ms, ts_ms)
  local factors = {}
  for index, half_life_ms in ipairs(half_lives_ms) do
    factors[index] = ms == 0 and 1 or 2 ^ (-math.abs(ts_ms - ms) / half_life_ms)
  end
  return factors
end

-- Decay a group to the later of its instant and `ts_ms`, and add; an event from the past adds what is left of it.
local function add_to_group(block, offset, half_lives_ms, n_buckets, bucket, amount, ts_ms)
  local ms = struct.unpack('<i8', block, offset + 1)
  local factors = decays(half_lives_ms, ms, ts_ms)
  local is_late, n_half_lives = ts_ms < ms, #half_lives_ms
  local first = bucket * n_half_lives
  local parts = {block:sub(1, offset), struct.pack('<i8', math.max(ms, ts_ms))}
  for index = 0, n_buckets * n_half_lives - 1 do
    local value = struct.unpack('<f', block, offset + 9 + 4 * index)
    local factor = factors[index % n_half_lives + 1]
    local is_chosen = index >= first and index < first + n_half_lives
    if not is_late then value = value * factor end
    if is_chosen then value = value + (is_late and amount * factor or amount) end
    parts[#parts + 1] = struct.pack('<f', value)
  end
  parts[#parts + 1] = block:sub(offset + 9 + 4 * n_buckets * n_half_lives)
  return table.concat(parts)
end

-- `adds` holds for each: u32 offset, n_half_lives, n_buckets, bucket; f64 amount, then the half-lives in ms.
local function add_all(block, adds, ts_ms)
  local at = 1
  while at <= #adds do
    local offset, n_half_lives, n_buckets, bucket, amount, after = struct.unpack('<I4I4I4I4d', adds, at)
    local half_lives_ms = {}
    for index = 1, n_half_lives do
      half_lives_ms[index], after = struct.unpack('<d', adds, after)
    end
    block = add_to_group(block, offset, half_lives_ms, n_buckets, bucket, amount, ts_ms)
    at = after
  end
  return block
end

local function push_recent(lengths, entries, recent, n_recent)
  if #lengths / 2 >= n_recent then
    local oldest = struct.unpack('<H', lengths, #lengths - 1)
    lengths, entries = lengths:sub(1, -3), entries:sub(1, #entries - oldest)
  end
  return struct.pack('<H', #recent) .. lengths, recent .. entries
end

-- The newest id a stream ever had, nil without a stream; unlike its last entry this survives trimming.
local function newest(log)
  local info = redis.pcall('XINFO', 'STREAM', log)
  if info.err then
    if info.err:find('no such key', 1, true) then return nil end
    return nil, info
  end
  for index = 1, #info, 2 do
    if info[index] == 'last-generated-id' then return info[index + 1] end
  end
end

-- The wall clock's id is the server's; on the event clock log time is event time, and never runs backwards. Asking for
-- the newest id costs as much as all the rest, so it is asked only when the event is older than that.
local function append(log, clock, ts_ms, ...)
  if clock == 'wall' then return redis.pcall('XADD', log, '*', ...) end
  local id = redis.pcall('XADD', log, ts_ms .. '-*', ...)
  if not id.err then return id end
  local last, failure = newest(log)
  if not last then return failure or id end
  return redis.pcall('XADD', log, last:match('^%d+') .. '-*', ...)
end

-- The sets of ids seen in this window and in the one before.
local function windows(seen, window_ms)
  local time = redis.call('TIME')
  local number = math.floor((time[1] * 1000 + math.floor(time[2] / 1000)) / window_ms)
  return seen .. whole(number), seen .. whole(number - 1)
end

-- Arguments that every record carries: kind, body, clock, ts_ms, digest, window_ms. What becomes of the state is
-- `change(user key, arguments, keys)`: an error reply or nil, the state to log, and a function of the entry's id that
-- writes the new one.
local function record(change)
  return function(keys, args)
    local log, seen, user = keys[1], keys[2], keys[3]
    local kind, body, clock, ts_ms, digest, window_ms = unpack(args, 1, 6)
    local current, previous
    if digest ~= '' then
      current, previous = windows(seen, tonumber(window_ms))
      if redis.call('SISMEMBER', current, digest) + redis.call('SISMEMBER', previous, digest) > 0 then
        local last, failure = newest(log)
        return failure or {last or '0-0', 1}
      end
    end
    local refused, before, write = change(user, args, keys)
    if refused then return refused end
    local id = append(log, clock, ts_ms, 'k', kind, 'b', body, 's', before)
    if id.err then return id end
    if write then write(id) end
    if current then
      redis.call('SADD', current, digest)
      redis.call('PEXPIRE', current, whole(2 * window_ms), 'NX')
    end
    return {id, 0}
  end
end

local function blank(header, block_bytes) return header .. string.rep('\0', block_bytes + LISTS_BYTES) end

-- Further arguments: header, block_bytes, adds, recent entry, context, n_recent.
local function event(user, args)
  local ts_ms, header, block_bytes = tonumber(args[4]), args[7], tonumber(args[8])
  local before = redis.call('GET', user) or ''
  local refused, block, lengths, entries, _, attributes =
    split(before == '' and blank(header, block_bytes) or before, header, block_bytes)
  if refused then return refused end
  block = add_all(block, args[9], ts_ms)
  lengths, entries = push_recent(lengths, entries, args[10], tonumber(args[12]))
  local after = join(header, block, lengths, entries, args[11], attributes)
  return nil, before, function() redis.call('SET', user, after) end
end

-- Further arguments: header, block_bytes, attributes.
local function attributes(user, args)
  local header, block_bytes = args[7], tonumber(args[8])
  local before = redis.call('GET', user) or ''
  local refused, block, lengths, entries, context =
    split(before == '' and blank(header, block_bytes) or before, header, block_bytes)
  if refused then return refused end
  local after = join(header, block, lengths, entries, context, args[9])
  return nil, before, function() redis.call('SET', user, after) end
end

-- Whatever is stored goes, readable or not; an erasure carries no state into the log. A further key: where it is noted
-- that the rest is to go, too. Further arguments: the name of the erasure, empty for none; whom it is about; the state that must be there, empty for any.
local function erasure(user, args, keys)
  if args[9] ~= '' and redis.call('GET', user) ~= args[9] then
    return redis.error_reply(string.format('HRMOVED %s: its state is another meanwhile', keys[1]))
  end
  return nil, '', function(id)
    redis.call('DEL', user)
    if args[7] ~= '' then redis.call('HSET', keys[4], args[7], id .. ' {} ' .. args[8]) end
  end
end

-- Further arguments: the state to log.
local function plain(_, args) return nil, args[7] end

-- An error reply unless these rows may be written by this holder: whoever replaces all of them holds them meanwhile.
local function withheld(positions, holder)
  local held = redis.call('HGET', positions, 'held') or ''
  if held ~= holder then
    return redis.error_reply(string.format('HRCONFLICT %s: the rows are held by %q, not by %q; reload and go on',
      positions, held, holder))
  end
end

local function set_or_delete(key, value)
  if value == '' then redis.call('DEL', key) else redis.call('SET', key, value) end
end

local function set_positions(positions, args, first, last)
  for at = first, last, 1000 do -- a call takes 8,000 arguments at most
    redis.call('HSET', positions, unpack(args, at, math.min(at + 999, last)))
  end
end

-- Arguments: holder, number of expected and of reached positions, these as partition, position; then a row for each
-- further key, an empty one for none.
local function commit_rows(keys, args)
  local positions = keys[1]
  local expected_end = 3 + 2 * args[2]
  local reached_end = expected_end + 2 * args[3]
  local refused = withheld(positions, args[1])
  if refused then return refused end
  local partitions = {}
  for index = 4, expected_end, 2 do partitions[#partitions + 1] = args[index] end
  local stored = #partitions > 0 and redis.call('HMGET', positions, unpack(partitions)) or {}
  for place, partition in ipairs(partitions) do
    local at, expected = stored[place] or '0-0', args[3 + 2 * place]
    if at ~= expected then
      return redis.error_reply(string.format('HRCONFLICT %s: log partition %s is at %s, expected %s; reload and go on',
        positions, partition, at, expected))
    end
  end
  set_positions(positions, args, expected_end + 1, reached_end)
  for index = 2, #keys do set_or_delete(keys[index], args[reached_end + index - 1]) end
  return redis.status_reply('OK')
end

-- Arguments: holder, then what the positions become, as partition, position.
local function release_rows(keys, args)
  local refused = withheld(keys[1], args[1])
  if refused then return refused end
  redis.call('DEL', keys[1])
  set_positions(keys[1], args, 2, #args)
  return redis.status_reply('OK')
end

-- Keys: log, then users. Arguments: the position that the log must be at, then a state for each user, an empty one for
-- none.
local function put_users(keys, args)
  local head, failure = newest(keys[1])
  if failure then return failure end
  if (head or '0-0') ~= args[1] then
    return redis.error_reply(string.format('HRMOVED %s: the log is at %s, expected %s; read on and try again',
      keys[1], head or '0-0', args[1]))
  end
  for index = 2, #keys do set_or_delete(keys[index], args[index]) end
  return redis.status_reply('OK')
end

-- Positions as Python packs them, {"7":[ms,seq]}. Numbers are written whole: cjson would round them to 14 digits.
local function packed(positions)
  local parts = {}
  for partition, at in pairs(positions) do
    parts[#parts + 1] = string.format('"%s":[%s,%s]', partition, whole(at[1]), whole(at[2]))
  end
  return '{' .. table.concat(parts, ',') .. '}'
end

local function position(text)
  local ms, seq = text:match('^(%d+)-(%d+)$')
  return {tonumber(ms), tonumber(seq)}
end

-- Arguments: name, number of expected and of reached positions, these as partition, position.
local function advance_reader(keys, args)
  local name, expected_end = args[1], 3 + 2 * args[2]
  local stored = redis.call('HGET', keys[1], name)
  if not stored then
    return redis.error_reply(string.format('HRREADER there is no reader %q; it has been forgotten', name))
  end
  local positions = cjson.decode(stored)
  for index = 4, expected_end, 2 do
    local at = positions[args[index]]
    at = at and whole(at[1]) .. '-' .. whole(at[2]) or '0-0'
    if at ~= args[index + 1] then
      return redis.error_reply(string.format('HRREADER reader %q: partition %s is at %s, expected %s', name, args[index],
        at, args[index + 1]))
    end
  end
  for index = expected_end + 1, #args, 2 do positions[args[index]] = position(args[index + 1]) end
  redis.call('HSET', keys[1], name, packed(positions))
  return redis.status_reply('OK')
end

-- Arguments: partition, position. What was told before is not taken back.
local function tell_trimming(keys, args)
  local positions = cjson.decode(redis.call('GET', keys[1]) or '{}')
  for index = 1, #args, 2 do
    local told, at = positions[args[index]], position(args[index + 1])
    if not told or told[1] < at[1] or told[1] == at[1] and told[2] < at[2] then positions[args[index]] = at end
  end
  redis.call('SET', keys[1], packed(positions))
  return redis.status_reply('OK')
end

-- Keys: log, and where the last entry that went is noted. Arguments: the last position that goes, the first that stays.
local function trim(keys, args)
  local last = redis.call('XREVRANGE', keys[1], args[1], '-', 'COUNT', 1)[1]
  if not last then return 0 end
  redis.call('SET', keys[2], last[1])
  return redis.call('XTRIM', keys[1], 'MINID', '=', args[2])
end

-- A log is rewritten without what is erased: XDEL would leave its bytes in the server, in files and in copies of it. A
-- draft is begun, then entries are copied a few at a time while the log goes on, then it takes the log's place.
-- Keys of all three: log, draft, by whom. Arguments begin with the latter: of two who draft, the second one goes on.
local function begin_draft(keys, args)
  redis.call('UNLINK', keys[2])
  redis.call('SET', keys[3], args[1])
  return redis.status_reply('OK')
end

-- Further arguments: how many the draft has, the last position that was copied or left out, how many to look at; then
-- positions to leave out. Gives the last position, the number that the draft has, and how many were looked at.
local function copy_entries(keys, args)
  local n_copied, after = tonumber(args[2]), args[3]
  if redis.call('GET', keys[3]) ~= args[1] or redis.call('XLEN', keys[2]) ~= n_copied then
    return redis.error_reply(string.format('HRMOVED %s: somebody else drafts it, or the draft is lost; begin again',
      keys[1]))
  end
  local left_out = {}
  for index = 5, #args do left_out[args[index]] = true end
  local entries = redis.call('XRANGE', keys[1], '(' .. after, '+', 'COUNT', args[4])
  for _, entry in ipairs(entries) do
    after = entry[1]
    if not left_out[after] then
      redis.call('XADD', keys[2], after, unpack(entry[2]))
      n_copied = n_copied + 1
    end
  end
  return {after, n_copied, #entries}
end

-- Arguments as before. If there was more to copy nothing takes any place, and the reply is as before.
local function put_draft(keys, args)
  local reply = copy_entries(keys, args)
  if reply.err or reply[3] == tonumber(args[4]) then return reply end
  local last, failure = newest(keys[1])
  if failure then return failure end
  if last then
    local first = redis.call('XRANGE', keys[1], '-', '+', 'COUNT', 1)[1]
    if not first then redis.call('DEL', keys[2]) end -- all of it was trimmed meanwhile
    if redis.call('EXISTS', keys[2]) == 0 then
      redis.call('XGROUP', 'CREATE', keys[2], 'none', '$', 'MKSTREAM') -- a stream of no entry
      redis.call('XGROUP', 'DESTROY', keys[2], 'none')
    end
    if first then redis.call('XTRIM', keys[2], 'MINID', '=', first[1]) end
    redis.call('XSETID', keys[2], last)
    redis.call('UNLINK', keys[1]) -- nobody waits until its memory is free
    redis.call('RENAME', keys[2], keys[1])
  end
  redis.call('DEL', keys[3])
  return reply
end

-- Arguments: window_ms, digests of events that are not known any more.
local function forget_seen(keys, args)
  local current, previous = windows(keys[1], tonumber(args[1]))
  for index = 2, #args do
    redis.call('SREM', current, args[index])
    redis.call('SREM', previous, args[index])
  end
  return redis.status_reply('OK')
end

local function heads(keys)
  local ids = {}
  for index, log in ipairs(keys) do
    local id, failure = newest(log)
    if failure then return failure end
    ids[index] = id or ''
  end
  return ids
end

redis.register_function('headrace_4_event', record(event))
redis.register_function('headrace_4_attributes', record(attributes))
redis.register_function('headrace_4_erasure', record(erasure))
redis.register_function('headrace_4_plain', record(plain))
redis.register_function('headrace_4_commit_rows', commit_rows)
redis.register_function('headrace_4_release_rows', release_rows)
redis.register_function('headrace_4_put_users', put_users)
redis.register_function('headrace_4_advance_reader', advance_reader)
redis.register_function('headrace_4_tell_trimming', tell_trimming)
redis.register_function('headrace_4_trim', trim)
redis.register_function('headrace_4_begin_draft', begin_draft)
redis.register_function('headrace_4_put_draft', put_draft)
redis.register_function('headrace_4_forget_seen', forget_seen)
redis.register_function{function_name = 'headrace_4_heads', callback = heads, flags = {'no-writes'}}
