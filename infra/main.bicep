// Everything the exporter runs on, in a resource group of its own. Plain resources only; no shared key anywhere.
// How to deploy: docs/how-to/deploy.md. Checked offline against Microsoft's type data, not yet run on a subscription.

targetScope = 'subscription'

@description('Name of the azd environment; the resource group is rg-NAME.')
@minLength(1)
@maxLength(64)
param environmentName string

@description('Azure region that offers Flex Consumption.')
@minLength(1)
@metadata({ azd: { type: 'location' } })
param location string

@description('Object id, in this tenant, of the service principal of Customer Insights (application 0bfc4568-a4ba-4c58-bd3e-5d3e76bd7fff). Empty or "none": it gets no role.')
param customerInsightsObjectId string = ''

@description('Object id of the person or group that makes the connection in Customer Insights, where that is not the operator. Empty: nobody.')
param customerInsightsAdminObjectId string = ''

@allowed(['User', 'Group', 'ServicePrincipal'])
param customerInsightsAdminType string = 'User'

@description('Object id of the person or group that operates the app: stores keys, writes documents, reads reports. Empty: who deploys. "none": nobody but the app gets a role on data.')
param operatorObjectId string = ''

@allowed(['User', 'Group', 'ServicePrincipal'])
param operatorType string = 'User'

@description('Container into which Customer Insights writes.')
param snapshotsContainerName string = 'segments'

@description('Name, resource group and region of a storage account for snapshots that is there, in this subscription; empty makes one.')
param existingSnapshotsAccountName string = ''
param existingSnapshotsResourceGroup string = ''
param existingSnapshotsLocation string = ''

@description('Event Grid system topic of that account, where it has one.')
param existingTopicName string = ''

@description('Name and resource group of a vault that is there, in this subscription; empty makes one.')
param existingVaultName string = ''
param existingVaultResourceGroup string = ''

@description('Resource id of a Log Analytics workspace that is there; empty makes one.')
param existingWorkspaceId string = ''

@description('Client id of the app registration that people sign in to; infra/hooks/app_registration.py makes it. Empty: no sign-in.')
param authClientId string = ''

@description('Whether the app may store Klaviyo keys itself (Key Vault Secrets Officer instead of Secrets User).')
param appWritesKeys bool = false

@description('Private endpoints for state, snapshots and vault, which then cannot be reached from the internet (snapshots: see snapshotsPublicAccess).')
param privateNetwork bool = false

@description('One fixed address for everything the app sends, by a NAT gateway. A private network has it in any case.')
param fixedOutboundAddress bool = false

@description('Whether the snapshots account stays open to the internet (for identities with a role). False only after Customer Insights\' own private link to it is approved.')
param snapshotsPublicAccess bool = true

@description('Address range of the network, at least a /25.')
param networkPrefix string = '10.67.0.0/24'

@description('"recover" takes up this environment\'s vault after it was uninstalled.')
@allowed(['default', 'recover'])
param vaultCreateMode string = 'default'

@allowed(['Standard_LRS', 'Standard_ZRS', 'Standard_GRS', 'Standard_GZRS'])
param storageRedundancy string = 'Standard_LRS'

@description('Days after which the app deletes a run with its report (RUNS_KEPT_DAYS); what it leaves, storage deletes 30 days later.')
@minValue(7)
param keepRunsDays int = 365

@description('Days after which the app deletes a run\'s lists of rows, which hold personal data (REJECTED_KEPT_DAYS).')
@minValue(1)
param keepRejectedDays int = 30

@description('Days after which snapshots are deleted; 0 keeps them.')
@minValue(0)
param keepSnapshotsDays int = 90

@description('Days that logs are kept.')
@minValue(30)
@maxValue(730)
param keepLogsDays int = 30

@description('Gigabytes of logs a day after which no more are taken; -1 for no limit.')
param logsDailyCapGb int = 1

@description('Who gets alerts by e-mail; empty shows them in the portal only.')
param alertEmail string = ''

@description('Hours without a new run after which an alert fires; 0 for never. 48 is the longest that log alerts look back.')
@allowed([0, 1, 2, 3, 4, 5, 6, 24, 48])
param noRunHours int = 48

@description('Percent of Klaviyo\'s answers in an hour that are 429, above which an alert fires.')
@minValue(1)
@maxValue(100)
param rateLimitedPercent int = 5

@allowed([512, 2048, 4096])
param instanceMemoryMB int = 2048

@description('Instances there may be. Flex Consumption has refused less than 40.')
@minValue(1)
@maxValue(1000)
param maximumInstanceCount int = 40

@description('When the timer looks for what is due: NCRONTAB, six fields, UTC.')
param tickSchedule string = '0 */5 * * * *'

@description('Any other settings of docs/configuration.md: NAME=VALUE, with spaces between them.')
param exporterSettings string = ''

var token = toLower(uniqueString(subscription().id, environmentName, location))
var tags = { 'azd-env-name': environmentName }
var stateContainerName = 'exporter-state'
var packageContainerName = 'deployment'
var queueName = 'export-steps'
var operatorId = empty(operatorObjectId) ? deployer().objectId : operatorObjectId == 'none' ? '' : operatorObjectId
var withNetwork = privateNetwork || fixedOutboundAddress
var storageSuffix = environment().suffixes.storage

var otherSettings = toObject(
  filter(split(exporterSettings, ' '), pair => !empty(pair)),
  pair => split(pair, '=')[0],
  pair => substring(pair, indexOf(pair, '=') + 1)
)

// Names and schedule also stand in triggers as %NAME%: with a missing one the function does not load.
var settings = union(otherSettings, {
  KEY_VAULT_URL: vault.outputs.url
  REJECTED_KEPT_DAYS: string(keepRejectedDays)
  RUNS_KEPT_DAYS: string(keepRunsDays)
  SNAPSHOTS_CONTAINER: snapshotsContainerName
  STATE_CONTAINER: stateContainerName
  STEPS_QUEUE: queueName
  TICK_SCHEDULE: tickSchedule
})

resource group 'Microsoft.Resources/resourceGroups@2024-03-01' = {
  name: 'rg-${environmentName}'
  location: location
  tags: tags
}

module identity 'modules/identity.bicep' = {
  name: 'identity'
  scope: group
  params: { name: 'id-${token}', location: location, tags: tags }
}

module monitoring 'modules/monitoring.bicep' = {
  name: 'monitoring'
  scope: group
  params: {
    token: token
    location: location
    tags: tags
    appPrincipalId: identity.outputs.principalId
    existingWorkspaceId: existingWorkspaceId
    retentionDays: keepLogsDays
    dailyCapGb: logsDailyCapGb
  }
}

var snapshotsGroup = empty(existingSnapshotsAccountName)
  ? group.name
  : !empty(existingSnapshotsResourceGroup)
      ? existingSnapshotsResourceGroup
      : fail('EXISTING_SNAPSHOTS_ACCOUNT needs EXISTING_SNAPSHOTS_RESOURCE_GROUP.')
var vaultGroup = empty(existingVaultName)
  ? group.name
  : !empty(existingVaultResourceGroup)
      ? existingVaultResourceGroup
      : fail('EXISTING_VAULT needs EXISTING_VAULT_RESOURCE_GROUP.')

module snapshots 'modules/snapshots.bicep' = {
  name: 'snapshots-${token}'
  scope: resourceGroup(snapshotsGroup)
  params: {
    token: token
    location: empty(existingSnapshotsLocation) ? location : existingSnapshotsLocation
    tags: tags
    appPrincipalId: identity.outputs.principalId
    containerName: snapshotsContainerName
    redundancy: storageRedundancy
    existingAccountName: existingSnapshotsAccountName
    existingTopicName: existingTopicName
    customerInsightsObjectId: customerInsightsObjectId == 'none' ? '' : customerInsightsObjectId
    customerInsightsAdminObjectId: customerInsightsAdminObjectId
    customerInsightsAdminType: customerInsightsAdminType
    operatorObjectId: operatorId
    operatorType: operatorType
    keepDays: keepSnapshotsDays
    publicAccess: (snapshotsPublicAccess || privateNetwork)
      ? snapshotsPublicAccess
      : fail('SNAPSHOTS_PUBLIC_ACCESS=false needs PRIVATE_NETWORK=true: the app itself could not reach the account.')
  }
}

module state 'modules/state.bicep' = {
  name: 'state'
  scope: group
  params: {
    token: token
    location: location
    tags: tags
    appPrincipalId: identity.outputs.principalId
    stateContainerName: stateContainerName
    packageContainerName: packageContainerName
    queueName: queueName
    redundancy: storageRedundancy
    operatorObjectId: operatorId
    operatorType: operatorType
    keepRunsDays: keepRunsDays
    publicAccess: !privateNetwork
  }
}

module vault 'modules/vault.bicep' = {
  name: 'vault-${token}'
  scope: resourceGroup(vaultGroup)
  params: {
    token: token
    location: location
    tags: tags
    appPrincipalId: identity.outputs.principalId
    workspaceId: monitoring.outputs.workspaceId
    existingVaultName: existingVaultName
    createMode: vaultCreateMode
    appWritesKeys: appWritesKeys
    operatorObjectId: operatorId
    operatorType: operatorType
    publicAccess: !privateNetwork
  }
}

var blobZone = 'privatelink.blob.${storageSuffix}'
var queueZone = 'privatelink.queue.${storageSuffix}'
var endpoints = [
  { name: 'state-blob', resourceId: state.outputs.accountId, groupId: 'blob', zone: blobZone }
  { name: 'state-queue', resourceId: state.outputs.accountId, groupId: 'queue', zone: queueZone }
  { name: 'state-table', resourceId: state.outputs.accountId, groupId: 'table', zone: 'privatelink.table.${storageSuffix}' }
  { name: 'snapshots-blob', resourceId: snapshots.outputs.accountId, groupId: 'blob', zone: blobZone }
  { name: 'snapshots-queue', resourceId: snapshots.outputs.accountId, groupId: 'queue', zone: queueZone }
  { name: 'vault', resourceId: vault.outputs.id, groupId: 'vault', zone: 'privatelink.vaultcore.azure.net' }
]

module network 'modules/network.bicep' = if (withNetwork) {
  name: 'network'
  scope: group
  params: {
    token: token
    location: location
    tags: tags
    addressPrefix: networkPrefix
    endpoints: privateNetwork ? endpoints : []
  }
}

module app 'modules/app.bicep' = {
  name: 'app'
  scope: group
  params: {
    token: token
    location: location
    tags: tags
    identityId: identity.outputs.id
    identityClientId: identity.outputs.clientId
    stateAccountName: state.outputs.accountName
    packageContainerName: packageContainerName
    snapshotsAccountName: snapshots.outputs.accountName
    insightsName: monitoring.outputs.insightsName
    settings: settings
    instanceMemoryMB: instanceMemoryMB
    maximumInstanceCount: maximumInstanceCount
    subnetId: withNetwork ? network!.outputs.appSubnetId : ''
    authClientId: authClientId
  }
}

module alerts 'modules/alerts.bicep' = {
  name: 'alerts'
  scope: group
  params: {
    token: token
    location: location
    tags: tags
    insightsId: monitoring.outputs.insightsId
    email: alertEmail
    noRunHours: noRunHours
    rateLimitedPercent: rateLimitedPercent
    snapshotsAccountId: empty(existingSnapshotsAccountName) ? snapshots.outputs.accountId : ''
  }
}

// azd keeps these in .azure/ENVIRONMENT/.env; the hooks and the commands of the documentation read them there.
output AZURE_LOCATION string = location
output AZURE_TENANT_ID string = tenant().tenantId
output AZURE_RESOURCE_GROUP string = group.name
output APP_NAME string = app.outputs.name
output APP_URI string = app.outputs.uri
output APP_IDENTITY_PRINCIPAL_ID string = identity.outputs.principalId
output SNAPSHOTS_ACCOUNT_NAME string = snapshots.outputs.accountName
output SNAPSHOTS_CONTAINER_NAME string = snapshotsContainerName
output SNAPSHOTS_TOPIC_ID string = snapshots.outputs.topicId
output STATE_ACCOUNT_NAME string = state.outputs.accountName
output STATE_CONTAINER_NAME string = stateContainerName
output VAULT_NAME string = vault.outputs.name
output OUTBOUND_ADDRESS string = withNetwork ? network!.outputs.outboundAddress : ''
// What the app is told, by the names that `python -m exporter` reads.
output KEY_VAULT_URL string = vault.outputs.url
output SNAPSHOTS_CONTAINER string = snapshotsContainerName
output SnapshotsStorage__blobServiceUri string = 'https://${snapshots.outputs.accountName}.blob.${storageSuffix}'
output StateStorage__blobServiceUri string = 'https://${state.outputs.accountName}.blob.${storageSuffix}'
output StateStorage__queueServiceUri string = 'https://${state.outputs.accountName}.queue.${storageSuffix}'
