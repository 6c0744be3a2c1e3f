// Anthropic's sandbox-runtime as a library: bubblewrap, and proxies that stay. Its directory is
// the first argument. The lines are those of loop.py.
import { spawn } from 'node:child_process'
import { createInterface } from 'node:readline'
import { pathToFileURL } from 'node:url'

const home = `${process.argv[2]}/node_modules/@anthropic-ai/sandbox-runtime/dist/index.js`
const { SandboxManager } = await import(pathToFileURL(home))
await SandboxManager.initialize({
  network: { allowedDomains: [], deniedDomains: [] },
  filesystem: { denyRead: [], allowWrite: ['/tmp'], denyWrite: [] },
})

const quoted = (word) => `'${word.replaceAll("'", `'\\''`)}'`

async function fresh(argv) {
  const command = await SandboxManager.wrapWithSandbox(argv.map(quoted).join(' '))
  return await new Promise((resolve, reject) => {
    const child = spawn(command, { shell: true, stdio: ['ignore', 'pipe', 'inherit'] })
    let out = ''
    child.stdout.on('data', (data) => (out += data))
    child.on('error', reject)
    child.on('close', (code) => (code === 0 ? resolve(out) : reject(new Error(`exit ${code}`))))
  })
}

const say = (answer) => process.stdout.write(JSON.stringify(answer) + '\n')
say({ ms: 0, out: 'ready' })
for await (const line of createInterface({ input: process.stdin })) {
  const asked = JSON.parse(line)
  const begun = performance.now()
  try {
    if (asked.live) throw new Error('it has no sandbox that stays')
    const out = await fresh(asked.argv)
    say({ ms: performance.now() - begun, out })
  } catch (error) {
    say({ error: String(error) })
  }
}
await SandboxManager.reset()
process.exit(0)
