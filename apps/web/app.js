// The page: takes a picture (dropped, chosen, pasted, from the camera), asks the worker, shows the answer.
// Called with ?max_pixels=100000000 it takes larger pictures than the bundle says.
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
  const worker = new Worker('worker.js' + location.search, { type: 'module' })
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
  name = file.name || 'the image'
  showError('')
  clearAnswer()
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
  $('status').textContent = latest ? 'Looking …' : 'The model is ready for an image.'
  if (vocab.length) {
    $('classes').hidden = false
    $('classes').querySelector('summary').textContent = `The ${vocab.length} classes it knows`
    $('classes').querySelector('p').replaceChildren(...vocab.flatMap((label, i) => [i ? ', ' : '', text(label)]))
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
  clearAnswer()
  const { said, rows = [], called, draw } = describe(answer)
  $('status').replaceChildren(...said)
  $('status').classList.toggle('long', $('status').textContent.length > 60)
  $('top').replaceChildren(...rows.map(row))
  $('top').hidden = !rows.length
  if (rows.length) $('top').setAttribute('aria-label', called)
  if (draw) {
    $('under').src = $('picture').src
    $('drawing').hidden = false
    draw(answer, width, height)
    $('drawn').setAttribute('aria-label', `The image, with the answer drawn: ${$('status').textContent}`)
  }
  $('detail').textContent = `${width} × ${height} pixels, ${Math.round(ms)} ms`
}

function clearAnswer() {
  $('top').hidden = $('drawing').hidden = $('save').hidden = true
  $('detail').textContent = ''
}

/** What is shown of an answer: a sentence (nodes), rows of a list, what the list is, and a function that draws. */
function describe(answer) {
  const { values, points, shares, image, labels, top } = answer
  if (values) return { said: [values.map(v => number.format(v)).join(', ')] }
  if (image) return { said: [`An image of ${answer.width} × ${answer.height} pixels`], draw: drawImage }
  if (points) {
    const rows = points.map(([x, y], i) => ({ name: String(i + 1), value: `(${x.toFixed(1)}, ${y.toFixed(1)})` }))
    if (points.length === 1) return { said: [rows[0].value], draw: drawPoints }
    return { said: [`${points.length} points`], rows, called: 'The points, in pixels of the image', draw: drawPoints }
  }
  if (shares) {
    const rows = shares.map(c => ({ name: c.label, part: c.share, index: c.index }))
    return { said: list(rows.slice(0, 3)), rows, called: 'The classes, by their share of what the model sees', draw: drawMask }
  }
  const rows = top.map(c => ({ name: c.label, part: c.prob }))
  const said = !labels ? list(rows.slice(0, 1)) : labels.length ? list(labels.map(name => ({ name })), '; ') : ['None of the classes.']
  return { said, rows, called: 'The likeliest classes' }
}

/** Names, with their percentages if they have some. */
function list(rows, between = ', ') {
  return rows.flatMap(({ name, part }, i) => [i ? between : '', text(name), part === undefined ? '' : ` ${percent(part)}`])
}

/** A name as text, whatever is in it: control characters are written out, and what is written from right to left stays in its place. */
function text(name) {
  return make('bdi', name.replace(/\p{Cc}/gu, c => `\\x${c.charCodeAt().toString(16).padStart(2, '0')}`))
}

function make(tag, ...children) {
  const element = document.createElement(tag)
  element.append(...children)
  return element
}

function row({ name, value, part, index }) {
  const background = index === undefined ? '' : `rgb(${colour(index).join(' ')})`
  const label = make('span', text(name))
  if (background) {
    label.prepend(make('i'))
    label.firstChild.style.background = background
  }
  const item = make('li', label, ' ', make('span', value ?? percent(part)))
  if (part !== undefined) {
    const fill = make('div')
    Object.assign(fill.style, { width: percent(part), background })
    item.append(make('div', fill))
    item.lastChild.className = 'bar'
  }
  return item
}

// ---- what is drawn ----

/** A colour [r, g, b] for each class, neighbours far from each other. */
function colour(i) {
  const h = (0.47 + 0.618 * i) % 1 * 6
  const v = 0.9 - 0.25 * (i >> 3 & 1)
  const channel = n => { const k = (n + h) % 6; return v - v * 0.8 * Math.max(0, Math.min(k, 4 - k, 1)) }
  return [5, 3, 1].map(n => Math.round(255 * channel(n)))
}

/**
 * An empty canvas over the picture, and how many of its pixels are one of the picture.
 * (A canvas with the picture on it would be turned as EXIF says, whatever style.css says.)
 */
function onPicture(width, height) {
  const fits = Math.min(8, 960 / Math.max(width, height))
  const canvas = Object.assign($('drawn'), { width: Math.ceil(width * fits), height: Math.ceil(height * fits) })
  $('drawing').className = Math.max(width, height) <= 128 ? 'tiny' : ''
  return { context: canvas.getContext('2d'), scale: [canvas.width / width, canvas.height / height] }
}

function drawPoints({ points }, width, height) {
  const { context, scale } = onPicture(width, height)
  const r = 5 * context.canvas.width / Math.max(1, context.canvas.clientWidth) // 5 pixels of the screen
  Object.assign(context, { lineWidth: r / 3, font: `600 ${2.2 * r}px system-ui, sans-serif`, lineJoin: 'round' })
  points.forEach((point, i) => {
    const [x, y] = point.map((v, k) => v * scale[k])
    context.beginPath()
    context.arc(x, y, r, 0, 7)
    context.fillStyle = '#0d9488'
    context.strokeStyle = 'white'
    context.fill()
    context.stroke()
    if (points.length === 1) return
    context.strokeStyle = 'black'
    context.fillStyle = 'white'
    context.strokeText(i + 1, x + 1.3 * r, y + 0.8 * r)
    context.fillText(i + 1, x + 1.3 * r, y + 0.8 * r)
  })
}

function drawMask({ shares, mask, width: w, height: h, window: { top, left, width: wide, height: high } }, width, height) {
  const { context, scale: [sx, sy] } = onPicture(width, height)
  const colours = new Map(shares.map(c => [c.index, [...colour(c.index), 140]]))
  const image = new ImageData(w, h)
  mask.forEach((index, i) => image.data.set(colours.get(index), 4 * i))
  const layer = new OffscreenCanvas(w, h)
  layer.getContext('2d').putImageData(image, 0, 0)
  context.imageSmoothingEnabled = false
  context.drawImage(layer, left * sx, top * sy, wide * sx, high * sy)
}

function drawImage({ image, width, height, channels }) {
  const canvas = Object.assign($('drawn'), { width, height })
  $('drawing').className = Math.max(width, height) <= 128 ? 'made tiny' : 'made'
  const pixels = new ImageData(width, height)
  for (let i = 0; i < width * height; i++) {
    const [r, g = r, b = r] = image.subarray(i * channels, (i + 1) * channels)
    pixels.data.set([r, g, b, 255], 4 * i)
  }
  canvas.getContext('2d').putImageData(pixels, 0, 0)
  const id = latest
  canvas.toBlob(blob => {
    if (id !== latest) return
    URL.revokeObjectURL($('save').href)
    $('save').href = URL.createObjectURL(blob)
    $('save').download = `${name.replace(/\.\w+$/, '')}-answer.png`
    $('save').hidden = false
  })
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
  clearAnswer()
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
  file ? ask(file) : showError('that was no file: save the image first, or copy and paste it')
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
