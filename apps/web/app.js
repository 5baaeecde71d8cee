// The page: takes a picture (dropped, chosen, pasted, from the camera), asks the worker, shows the answer.
const $ = id => document.getElementById(id)
const number = new Intl.NumberFormat('en', { maximumSignificantDigits: 4 })
const percent = p => `${(100 * p).toFixed(1)}%`
const megabytes = n => (n / 1e6).toFixed(1)

// ---- the model, in a worker ----

const starting = startWorker()
let ready = false
let latest = 0 // the number of the picture last asked about; answers to older ones are dropped
let name = '' // and its name

async function startWorker() {
  await installServiceWorker() // first, so that what the worker downloads is kept for offline use
  const worker = new Worker('worker.js', { type: 'module' })
  worker.onerror = () => noModel('the model could not be started: is vendor/ there? (npm install, npm run build)')
  worker.onmessage = ({ data }) => {
    if (data.progress) showProgress(data.progress)
    else if (data.ready) showReady(data.ready)
    else if (data.id === undefined) noModel(data.error)
    else if (data.id === latest) data.error ? refuse(data.error) : showAnswer(data)
  }
  return worker
}

async function ask(file) {
  latest++
  name = file.name || 'the picture'
  showError('')
  $('top').hidden = true
  $('detail').textContent = ''
  showPicture(file)
  if (ready) $('status').textContent = 'Looking …'
  const id = latest
  const worker = await starting
  worker.postMessage({ id, file })
}

// ---- what is shown ----

function showProgress({ loaded, total }) {
  if ($('progress').hidden) return
  if (total) { $('progress').max = total; $('progress').value = loaded }
  // Not #status: a screen reader need not hear every step.
  $('detail').textContent = `${megabytes(loaded)} ${total ? `of ${megabytes(total)} ` : ''}MB`
}

function showReady({ vocab }) {
  ready = true
  $('progress').hidden = true
  $('detail').textContent = ''
  $('status').textContent = latest ? 'Looking …' : 'The model is ready for a picture.'
  if (vocab.length) {
    $('classes').hidden = false
    $('classes').querySelector('summary').textContent = `The ${vocab.length} classes it knows`
    $('classes').querySelector('p').textContent = vocab.join(', ')
  }
}

function noModel(message) {
  $('progress').hidden = true
  $('status').textContent = $('detail').textContent = ''
  showError(message)
}

function showPicture(file) {
  const img = $('picture')
  URL.revokeObjectURL(img.src)
  img.src = URL.createObjectURL(file)
  img.alt = name
  img.onload = () => img.classList.toggle('tiny', Math.max(img.naturalWidth, img.naturalHeight) <= 128)
  img.onerror = () => { img.hidden = true } // the worker will say why
  img.hidden = false
  $('hint').hidden = true
}

function showAnswer({ answer, width, height, ms }) {
  if (answer.values) $('status').textContent = answer.values.map(v => number.format(v)).join(', ')
  else if (answer.labels) $('status').textContent = answer.labels.join('; ') || 'None of the classes.'
  else $('status').textContent = `${answer.label} ${percent(answer.prob)}`
  $('status').classList.toggle('long', $('status').textContent.length > 60)
  $('top').replaceChildren(...(answer.top ?? []).map(({ label, prob }) => {
    const item = document.createElement('li')
    const [name, value, bar, fill] = ['span', 'span', 'div', 'div'].map(tag => document.createElement(tag))
    name.textContent = label
    value.textContent = percent(prob)
    bar.className = 'bar'
    fill.style.width = percent(prob)
    bar.append(fill)
    item.append(name, ' ', value, bar)
    return item
  }))
  $('top').hidden = !answer.top
  $('detail').textContent = `${width} × ${height} pixels, ${Math.round(ms)} ms`
}

function showError(message) {
  $('error').textContent = message
}

function refuse(message) { // no picture, no answer
  showError(`${name}: ${message}`)
  $('picture').hidden = true
  $('picture').removeAttribute('src')
  $('hint').hidden = false
  $('status').textContent = ''
}

// ---- where pictures come from ----

$('file').onchange = ({ target }) => {
  if (target.files[0]) ask(target.files[0])
  target.value = '' // so that the same file can be chosen again
}

let depth = 0 // dragenter and dragleave also fire for the children
addEventListener('dragenter', event => { event.preventDefault(); depth++; $('drop').classList.add('over') })
addEventListener('dragleave', () => { if (!--depth) $('drop').classList.remove('over') })
addEventListener('dragover', event => event.preventDefault())
addEventListener('drop', event => {
  event.preventDefault()
  depth = 0
  $('drop').classList.remove('over')
  const file = event.dataTransfer.files[0]
  file ? ask(file) : showError('that was no file: save the picture first, or copy and paste it')
})
addEventListener('paste', event => {
  const file = event.clipboardData.files[0]
  if (file) ask(file)
})

let stream
findCamera()

async function findCamera() {
  const devices = await navigator.mediaDevices?.enumerateDevices().catch(() => [])
  $('camera').hidden = !devices?.some(d => d.kind === 'videoinput')
  if ($('camera').hidden) $('no-camera').textContent = devices ? 'No camera was found.' : 'The camera needs https (or localhost).'
}

$('camera').onclick = async () => {
  showError('')
  try {
    stream = await navigator.mediaDevices.getUserMedia({ video: { facingMode: 'environment' } })
  } catch (error) {
    return showError(`the camera cannot be used: ${error.message || error.name}`)
  }
  $('video').srcObject = stream
  await $('video').play()
  shooting(true)
  $('shoot').focus()
}

$('shoot').onclick = async () => {
  const video = $('video')
  const canvas = new OffscreenCanvas(video.videoWidth, video.videoHeight)
  canvas.getContext('2d').drawImage(video, 0, 0)
  const blob = await canvas.convertToBlob() // PNG: no loss
  closeCamera()
  ask(blob)
}

$('stop').onclick = closeCamera

function closeCamera() {
  stream?.getTracks().forEach(track => track.stop())
  $('video').srcObject = null
  shooting(false)
  $('camera').focus()
}

function shooting(on) {
  $('video').hidden = $('shooting').hidden = !on
  $('sources').hidden = on
  const picture = $('picture').hasAttribute('src')
  $('picture').hidden = on || !picture
  $('hint').hidden = on || picture
}

// ---- offline ----

/** Resolves when the service worker answers for this page, or at once where there can be none. */
async function installServiceWorker() {
  if (!navigator.serviceWorker || navigator.serviceWorker.controller) return
  const controlled = new Promise(resolve => { navigator.serviceWorker.oncontrollerchange = resolve })
  try {
    const { active } = await navigator.serviceWorker.register('sw.js')
    if (!active) await Promise.race([controlled, new Promise(resolve => setTimeout(resolve, 3000))])
  } catch { /* the page works without */ }
}
