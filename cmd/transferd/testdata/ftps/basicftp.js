// Node's basic-ftp, out of the folder that deploy/test-deps.sh installed it in.
const fs = require("fs")
const env = process.env
const { Client } = require(env.BASIC_FTP)

async function day(client) {
  const { HOST, PORT, WHO, WORD, TLS, DATA, OUT } = env
  client.ftp.verbose = true
  await client.access({
    host: HOST, port: Number(PORT), user: WHO, password: WORD, secure: TLS !== "plain",
    secureOptions: TLS === "plain" ? undefined : { ca: fs.readFileSync(env.CA), minVersion: "TLSv" + TLS, maxVersion: "TLSv" + TLS },
  })
  for (const name of ["one", "two", "three"]) await client.uploadFrom(DATA, name)
  const names = (await client.list()).map((f) => f.name)
  for (const name of ["one", "two", "three"]) if (!names.includes(name)) throw new Error(`the list lacks ${name}: ${names}`)
  await client.downloadTo(OUT + "/back", "one")
  await client.downloadTo(fs.createWriteStream(OUT + "/tail", { flags: "a" }), "one", fs.statSync(OUT + "/tail").size)
  await client.rename("two", "four")
  await client.remove("three")
  const size = Math.floor(fs.statSync(DATA).size / 2)
  await client.uploadFrom(DATA, "five", { localEndInclusive: size - 1 })
  await client.appendFrom(DATA, "five", { localStart: await client.size("five") })
}

const client = new Client(60000)
day(client).catch((err) => { console.error(String(err)); process.exitCode = 1 }).finally(() => client.close())
