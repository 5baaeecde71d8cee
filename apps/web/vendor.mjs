// Copies ONNX Runtime Web into vendor/, so that the page needs nothing but its own folder.
import { cpSync, mkdirSync } from 'node:fs'

const dist = 'node_modules/onnxruntime-web/dist/'
mkdirSync('vendor', { recursive: true })
for (const file of ['ort.wasm.bundle.min.mjs', 'ort-wasm-simd-threaded.wasm'])
  cpSync(dist + file, 'vendor/' + file)
